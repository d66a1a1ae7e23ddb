"""What an audit has found so far, on disk: verdicts in parts that are whole or not there, and which pictures were seen.

In the audit's folder: `run.json` (what is run, so that another run is refused), `parts/` (numbered Parquet files) and
`seen.sqlite` (16 bytes for each picture and question, so that copies are found in constant memory). When all is done,
`finish` makes verdicts.parquet and flagged.parquet of the parts and removes them.
"""

import hashlib
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_modules.errors import ConfigError, DataError
from safety_modules.io.files import write_whole
from safety_modules.io.optional import needed
from safety_modules.io.places import check_ours, check_writable
from safety_modules.taxonomy import Taxonomy

KEY, PARTS, SEEN = "run.json", "parts", "seen.sqlite"
VERDICTS, FLAGGED, SUMMARY = "verdicts.parquet", "flagged.parquet", "summary.json"


def schemas(taxonomy: Taxonomy) -> tuple[Any, Any]:
    """Arrow schemas of verdicts.parquet and flagged.parquet."""
    pa = needed("pyarrow", "audits")
    text = pa.string()
    probabilities = [(f"p_{label}", pa.float32()) for label in taxonomy.labels]
    levels = [(f"level_{level}", pa.float32()) for level in taxonomy.levels]
    place = [("row", pa.int64()), ("source", text), ("image_digest", text)]
    decided = [("risk", pa.float64()), ("type", text), ("level", text)]
    verdicts = [*place, ("question", text), *probabilities, *levels, *decided, ("flagged", pa.bool_()), ("rule", text)]
    frames = [(name, pa.int32()) for name in ("frame", "frames_judged", "frames")]
    verdicts += [*frames, ("outside", pa.float32()), ("duplicate_of", pa.int64()), ("label", text), ("error", text)]
    flagged = [*place, ("type", text), ("level", text), ("risk", pa.float64()), ("rule", text), *frames, *probabilities]
    flagged += [("question", text), ("answer", text), ("label", text), ("thumbnail", pa.binary())]
    flagged += [("attention", pa.binary()), ("grid_rows", pa.int32()), ("grid_columns", pa.int32()), ("phash", text)]
    return pa.schema(verdicts), pa.schema(flagged)


class Store:
    """An audit's folder while it runs; it was made by `begin_run`. `parts` is how many of them are done.

    Raises:
        DataError: another process writes to it.
    """

    def __init__(self, out: Path, taxonomy: Taxonomy) -> None:
        self.out, self._schemas = out, dict(zip((VERDICTS, FLAGGED), schemas(taxonomy), strict=True))
        (out / PARTS).mkdir(exist_ok=True)
        self.parts = 0
        while self._path(self.parts, VERDICTS).is_file():
            self.parts += 1
        self._seen = sqlite3.connect(out / SEEN, timeout=0.1, isolation_level=None)
        try:
            self._seen.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._seen.execute("PRAGMA journal_mode = TRUNCATE")
            self._seen.execute("CREATE TABLE IF NOT EXISTS seen (key BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID")
            columns = "part INTEGER PRIMARY KEY, rows INTEGER, pictures INTEGER, seconds REAL"
            self._seen.execute(f"CREATE TABLE IF NOT EXISTS parts ({columns})")
            self._seen.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise DataError(
                f"audit not begun: expected {out} for this run alone, got {error}. Wait for the other process."
            ) from error
        # A part counts when its file is there; what was noted for one that is not is forgotten.
        self._seen.execute("DELETE FROM parts WHERE part >= ?", (self.parts,))
        self._seen.execute("DELETE FROM seen WHERE row >= ?", (self.rows,))

    @property
    def rows(self) -> int:
        """Rows of the parts that are done."""
        return int(self._seen.execute("SELECT COALESCE(SUM(rows), 0) FROM parts").fetchone()[0])

    @property
    def effort(self) -> tuple[int, float]:
        """Pictures that ran through the tower, and seconds, of the parts that are done."""
        totals = self._seen.execute("SELECT COALESCE(SUM(pictures), 0), COALESCE(SUM(seconds), 0.0) FROM parts")
        pictures, seconds = totals.fetchone()
        return int(pictures), float(seconds)

    def first_rows(self, pairs: Sequence[tuple[str, str | None]], rows: Sequence[int]) -> list[int]:
        """For each picture (digest) and question the first row that had both: an earlier one, or the given one."""
        texts = [f"{digest}\0{question or ''}".encode() for digest, question in pairs]
        keys = [hashlib.blake2b(text, digest_size=16).digest() for text in texts]
        self._seen.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", zip(keys, rows, strict=True))
        find = "SELECT row FROM seen WHERE key = ?"
        return [int(self._seen.execute(find, (key,)).fetchone()[0]) for key in keys]

    def write(self, verdicts: Mapping[str, Any], flagged: Mapping[str, Any], pictures: int, seconds: float) -> None:
        """Write the next part: it is there, whole, when this returns."""
        pa = needed("pyarrow", "audits")
        counted = (self.parts, len(verdicts["row"]), pictures, seconds)
        self._seen.execute("INSERT INTO parts VALUES (?, ?, ?, ?)", counted)
        self._seen.execute("COMMIT")
        self._seen.execute("BEGIN EXCLUSIVE")
        for name, columns in ((FLAGGED, flagged), (VERDICTS, verdicts)):  # the one that counts is written last
            schema = self._schemas[name]
            arrays = {  # unknown p-values are null
                field.name: pa.array(columns[field.name], field.type, from_pandas=field.name == "outside")
                for field in schema
            }
            table = pa.table(arrays, schema)
            self._write(self._path(self.parts, name), schema, [table])
        self.parts += 1

    def tables(self, name: str) -> Iterator[Any]:
        """The parts' tables of verdicts or of flagged rows, in order."""
        for part in range(self.parts):
            yield parquet().read_table(self._path(part, name))

    def finish(self) -> None:
        """Make one file each of the parts' verdicts and flagged rows."""
        for name, schema in self._schemas.items():
            self._write(self.out / name, schema, self.tables(name))

    @staticmethod
    def _write(path: Path, schema: Any, tables: Iterable[Any]) -> None:
        def put(file: Any) -> None:
            with parquet().ParquetWriter(file, schema, compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table)

        write_whole(path, put)

    def close(self) -> None:
        """Let go of the folder."""
        self._seen.close()

    def _path(self, part: int, name: str) -> Path:
        return self.out / PARTS / f"{part:06}.{name}"


def check_place(out: Path) -> None:
    """Refuse, before anything is read, a folder that cannot be written to or that holds somebody else's files.

    Raises:
        DataError: so it is.
    """
    try:
        check_ours(out, (KEY, SEEN), "an audit")
        check_writable(out)
    except ConfigError as error:
        raise DataError(f"audit not begun: {error}") from error


def remove_parts(out: Path) -> None:
    """Remove what only an unfinished audit needs."""
    shutil.rmtree(out / PARTS, ignore_errors=True)
    for path in out.glob(f"{SEEN}*"):  # its journal too
        path.unlink()


def parquet() -> Any:
    """The library."""
    return needed("pyarrow.parquet", "audits")
