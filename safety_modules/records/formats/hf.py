"""Hugging Face datasets: tables, with pictures as `datasets.Image` or file names.

Types and levels are names or `ClassLabel`s with the taxonomy's names, never bare numbers. No code of a dataset is run.
"""

from collections.abc import Iterator, Set
from itertools import count
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError
from safety_modules.io.optional import needed
from safety_modules.records.formats.base import DataEntry
from safety_modules.records.formats.parquet import ROWS, feature_names, is_list, named, used_columns
from safety_modules.records.formats.tables import Cells, Table
from safety_modules.records.images import DatasetCell
from safety_modules.records.source import ADDRESS, Source, copied_name


class HuggingFace(Table):
    """A folder of `save_to_disk`, local files that `load_dataset` reads, or `hf://owner/name[:split]`."""

    name = "hf"
    rule = "an address `hf://...`, or a folder with a `state.json` or `dataset_dict.json`"
    options = ("image_dir", "image_key", "streaming")

    def fits(self, source: Source, strict: bool) -> bool:
        return source.path.startswith(ADDRESS) or is_saved(source)

    def entries(self, source: Source, pictures: bool = True) -> Iterator[DataEntry]:
        dataset = open_dataset(source)
        if dataset.features is None:  # a stream of files that do not say
            dataset = dataset._resolve_features()
        schema, names = dataset.features.arrow_schema, feature_names(dataset.features)
        columns, uncounted, others = used_columns(schema, source.path, source, pictures)
        yield DataEntry(value=schema.names)
        folder = source.folder if source.options.image_dir is not None else _address(source)[0]
        folder = folder if folder.is_dir() else folder.parent
        # Pictures of a dataset on disk are left where they are.
        kept = {
            name: dataset.select_columns([name]).with_format("arrow")
            for name in columns
            if hasattr(dataset, "select") and _is_one_picture(schema.field(name).type)
        }
        if not columns:
            columns = schema.names[:1]
        numbers = count()
        try:
            for table in dataset.select_columns(columns).with_format("arrow").iter(ROWS):
                source.left_out.update(dict.fromkeys(others, len(table)))
                missing = {name: table[name].is_null().to_pylist() for name in kept}
                words = len(kept) < len(columns)  # a table of no columns has no rows either
                rows = table.drop_columns([*kept]).to_pylist() if words else [{} for _ in range(len(table))]
                for at, row in enumerate(rows):
                    number = next(numbers)
                    where = f"{source.path} row {number}"
                    cells = {
                        name: None if missing[name][at] else DatasetCell(column, number, where, folder)
                        for name, column in kept.items()
                    }
                    yield DataEntry(where, Cells(named(row, names) | cells | uncounted, folder))
        except DataError:
            raise
        except Exception as error:  # a stream may fail at any row, with kinds of its own
            raise _not_opened(source, error) from error

    def copy(self, source: Source, to: Path, drop: Set[int]) -> None:
        """As `save_to_disk` writes it; from the hub too, which cannot be written to."""
        dataset = open_dataset(source)
        kept = [number for number in range(len(dataset)) if number not in drop]
        shards = None if kept else 1  # without one the library cannot read an empty dataset
        dataset.select(kept).save_to_disk(str(to / copied_name(source)), num_shards=shards)


def is_saved(source: Source) -> bool:
    """Whether the source is a folder of `save_to_disk`."""
    return any((source.file / name).is_file() for name in ("state.json", "dataset_dict.json"))


def open_dataset(source: Source) -> Any:
    """The dataset. Raises DataError where it cannot be opened, or has several splits."""
    datasets = needed("datasets", source.path)
    on_hub = source.path.startswith(ADDRESS)
    folder, split = _address(source)
    name = str(folder)
    if on_hub and folder.exists():
        raise DataError(
            f"{source.path}: expected a name on the hub, got a folder {name} here as well, which the library would "
            "read instead. Run it elsewhere."
        )
    if not on_hub and not folder.exists():
        raise DataError(f"data not read: expected a folder or file, got nothing at {name}. Check the path.")
    if (folder / "dataset_dict.json").is_file():
        raise DataError(f"{name}: expected one split, got a folder of several. Name a split's own folder in it.")
    try:
        if (folder / "state.json").is_file():
            return datasets.load_from_disk(name)
        splits = datasets.get_dataset_split_names(name)
        if split or len(splits) == 1:
            return datasets.load_dataset(name, split=split or splits[0], streaming=source.options.streaming)
    except Exception as error:  # the library, its file systems and Arrow raise kinds of their own
        raise _not_opened(source, error) from error
    raise DataError(f"{source.path}: expected one split, got {', '.join(splits)}. Name one: {source.path}:{splits[0]}.")


def _address(source: Source) -> tuple[Path, str]:
    """The folder, or the name on the hub, and the split."""
    name, split = source.path.removeprefix(ADDRESS), ""
    if source.path.startswith(ADDRESS) or not source.file.exists():
        name, _, split = name.partition(":")
    return Path(name), split


def _is_one_picture(type: Any) -> bool:
    pa = needed("pyarrow.types", "tables")
    return not is_list(type) and bool(pa.is_struct(type) or pa.is_binary(type) or pa.is_large_binary(type))


def _not_opened(source: Source, error: Exception) -> DataError:
    return DataError(
        f"data not read: expected a dataset at {source.path}, got {type(error).__name__}: {error}. "
        "Check the address, the split and the files."
    )
