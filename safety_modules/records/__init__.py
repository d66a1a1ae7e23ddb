"""Risk data: records of one schema, readers of the formats that hold them, and a check of both.

The public names are imported on first use.
"""

from typing import TYPE_CHECKING

from safety_modules.io.lazy import lazy_exports

if TYPE_CHECKING:
    from safety_modules.records.check import DataReport, check_data
    from safety_modules.records.readers import read_good_records, read_records
    from safety_modules.records.record import GoodRecords, Problem, Record, check_records, raise_problems
    from safety_modules.records.source import ReadOptions

__all__ = [
    "DataReport",
    "GoodRecords",
    "Problem",
    "ReadOptions",
    "Record",
    "check_data",
    "check_records",
    "raise_problems",
    "read_good_records",
    "read_records",
]

_HOMES = {
    "DataReport": "check",
    "GoodRecords": "record",
    "Problem": "record",
    "ReadOptions": "source",
    "Record": "record",
    "check_data": "check",
    "check_records": "record",
    "raise_problems": "record",
    "read_good_records": "readers",
    "read_records": "readers",
}

__getattr__, __dir__ = lazy_exports(globals(), _HOMES)
