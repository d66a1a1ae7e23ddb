"""Audit: find the risky images of a dataset, at the speed of the vision tower; no language model is loaded.

The public names are imported on first use.
"""

from typing import TYPE_CHECKING

from safety_modules.io.lazy import lazy_exports

if TYPE_CHECKING:
    from safety_modules.audit.run import audit
    from safety_modules.audit.scorer import Scorer

__all__ = ["Scorer", "audit"]

_HOMES = {"Scorer": "scorer", "audit": "run"}

__getattr__, __dir__ = lazy_exports(globals(), _HOMES)
