"""Risk data: records of one schema, and readers of the files that hold them.

The public names are imported on first use.
"""

from typing import TYPE_CHECKING

from safety_modules.lazy import lazy_exports

if TYPE_CHECKING:
    from safety_modules.records.readers import read_records
    from safety_modules.records.record import Record

__all__ = ["Record", "read_records"]

_HOMES = {"Record": "record", "read_records": "readers"}

__getattr__, __dir__ = lazy_exports(globals(), _HOMES)
