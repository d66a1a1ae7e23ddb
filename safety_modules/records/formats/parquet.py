"""Parquet files: tables whose pictures are named or stand in them. Only the columns that are used are read."""

from collections.abc import Iterator, Mapping, Set
from itertools import count
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError
from safety_modules.io.optional import needed
from safety_modules.records.formats.base import DataEntry
from safety_modules.records.formats.tables import READ, Cells, Table, picture_columns
from safety_modules.records.images import Held
from safety_modules.records.source import Source, copied_shards, shard_files

ROWS = 64
"""Of a table, in memory at a time."""


class Parquet(Table):
    """One file, or all that a path with braces and wildcards names, in order."""

    name = "parquet"
    rule = "a file named `*.parquet`"
    suffix = ".parquet"

    def entries(self, source: Source, pictures: bool = True) -> Iterator[DataEntry]:
        for path, file, name in _opened(source):
            schema = file.schema_arrow
            columns, uncounted, others = used_columns(schema, name, source, pictures)
            names = class_names(schema)
            folder = path.parent if source.options.image_dir is None else source.folder
            yield DataEntry(value=schema.names)
            for other in others:
                source.left_out[other] += file.metadata.num_rows
            numbers = count()
            if not columns:
                for number in range(file.metadata.num_rows):
                    yield DataEntry(f"{name} row {number}", Cells(uncounted, folder))
                continue
            for batch in file.iter_batches(ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield DataEntry(f"{name} row {next(numbers)}", Cells(named(row, names) | uncounted, folder))

    def copy(self, source: Source, to: Path, drop: Set[int]) -> None:
        """The same columns, metadata, row groups and compression."""
        parquet, numbers = needed("pyarrow.parquet", source.path), count()
        for (_, file, _), (_, place) in zip(_opened(source), copied_shards(source, to), strict=True):
            groups = file.metadata.num_row_groups
            columns = file.metadata.row_group(0).num_columns if groups else 0
            used = {file.metadata.row_group(0).column(k).compression for k in range(columns)} - {"UNCOMPRESSED"}
            codec = used.pop() if len(used) == 1 else "none" if not used else "snappy"
            with parquet.ParquetWriter(place, file.schema_arrow, compression=codec) as writer:
                for group in range(groups):
                    table = file.read_row_group(group)
                    writer.write_table(table.filter([next(numbers) not in drop for _ in range(len(table))]))


def _opened(source: Source) -> Iterator[tuple[Path, Any, str]]:
    """(path, opened file, what its rows are called by) of each file."""
    parquet = needed("pyarrow.parquet", source.path)
    paths = shard_files(source.path)
    for path in paths:
        try:
            with parquet.ParquetFile(path) as file:
                # The rows of a single file are named by the path that was given.
                yield path, file, source.path if len(paths) == 1 else str(path)
        except (OSError, ValueError) as error:  # Arrow's errors are of these kinds
            raise DataError(f"{path} not read: expected a Parquet file, got {error}. Write it anew.") from error


def used_columns(
    schema: Any, where: str, source: Source, pictures: bool
) -> tuple[list[str], dict[str, Held], list[str]]:
    """The columns to read; cells instead of those that need not be read; what other columns of pictures are counted as.

    Args:
        schema: Arrow's.
        where: for messages.
        source: of the table.
        pictures: False = only to count rows: where each has one picture at most, it is not read.

    Raises:
        DataError: no column of pictures, or one that holds something else.
    """
    chosen = picture_columns(schema.names, where, source)
    for name in chosen:
        if not _may_hold_pictures(schema.field(name).type):
            raise DataError(f"{where}: expected pictures or file names in {name}, got {schema.field(name).type}.")
    others = [
        f"pictures of the column {name}, where {chosen[0]} is read"
        for name in schema.names
        if name not in chosen and _holds_pictures(schema.field(name).type)
    ]
    is_one = len(chosen) == 1 or (source.options.image_key is None and not {"image", "images"} <= {*chosen})
    skipped = not pictures and is_one and not any(is_list(schema.field(name).type) for name in chosen)
    words = [name for name in READ if name in schema.names]
    return (words, {chosen[0]: Held(b"", where)}, others) if skipped else ([*chosen, *words], {}, others)


def class_names(schema: Any) -> dict[str, list[str]]:
    """The names of a column's classes, where `datasets` wrote some for numbers."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    features = needed("datasets", "its Parquet files").Features.from_arrow_schema(schema)
    return feature_names(features)


def feature_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """As `class_names`, of the library's own description."""
    return {name: features[name].names for name in READ if hasattr(features.get(name), "int2str")}


def named(row: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """The row with names of classes instead of their numbers; -1 is none."""
    for name, classes in names.items():
        if isinstance(number := row.get(name), int):
            row[name] = classes[number] if 0 <= number < len(classes) else None
    return row


def is_list(type: Any) -> bool:
    """Whether a column holds several pictures a row."""
    pa = needed("pyarrow.types", "tables")
    return bool(pa.is_list(type) or pa.is_large_list(type) or pa.is_fixed_size_list(type))


def _may_hold_pictures(type: Any) -> bool:
    """Whether a column holds pictures, or words that may name some."""
    while is_list(type) or needed("pyarrow.types", "tables").is_dictionary(type):
        type = type.value_type
    return _holds_pictures(type) or str(type) in ("null", "string", "large_string", "string_view")


def _holds_pictures(type: Any) -> bool:
    while is_list(type):
        type = type.value_type
    if needed("pyarrow.types", "tables").is_struct(type):
        return {"bytes", "path"} <= {type.field(k).name for k in range(type.num_fields)}
    return str(type) in ("binary", "large_binary", "binary_view")
