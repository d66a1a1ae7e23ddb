"""Training: feature cache, losses, one loop for both stages, calibration.

The public names are imported on first use.
"""

from typing import TYPE_CHECKING

from safety_modules.io.lazy import lazy_exports

if TYPE_CHECKING:
    from safety_modules.training.calibration import calibrate
    from safety_modules.training.recipe import Recipe
    from safety_modules.training.train import train_safety

__all__ = ["Recipe", "calibrate", "train_safety"]

_HOMES = {"Recipe": "recipe", "calibrate": "calibration", "train_safety": "train"}

__getattr__, __dir__ = lazy_exports(globals(), _HOMES)
