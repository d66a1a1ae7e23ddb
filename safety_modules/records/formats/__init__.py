"""The formats, by name. To add one: a file with its class, and its line here."""

from safety_modules.records.formats.base import Format
from safety_modules.records.formats.conversations import Jsonl, Llava
from safety_modules.records.formats.folder import Folder
from safety_modules.records.formats.hf import HuggingFace
from safety_modules.records.formats.parquet import Parquet
from safety_modules.records.formats.tables import Csv
from safety_modules.records.formats.vlguard import VLGuard
from safety_modules.records.formats.webdataset import WebDataset

FORMATS: dict[str, Format] = {
    form.name: form for form in (Jsonl(), Llava(), VLGuard(), Csv(), Parquet(), Folder(), HuggingFace(), WebDataset())
}
