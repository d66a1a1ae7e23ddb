"""Reading single files of an adapter folder safely, and writing a whole folder at once."""

import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safety_modules.adapter.format import CONFIG_FILE, FORMAT, format_files
from safety_modules.errors import AdapterError, ConfigError
from safety_modules.io.places import check_writable
from safety_modules.paths import shipped_names


class Folder:
    """A folder whose files are read without leaving it, each at most once, and only so far.

    A link is refused, with one exception: in huggingface_hub's cache every file of a snapshot is a link into a
    folder of blobs. There, and only there, a link that ends in those blobs is followed.

    Attributes:
        problems: what is wrong so far; readers append to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []
        self._blobs: tuple[Path, ...] = ()
        if not os.path.isdir(root):
            what = "a file" if os.path.exists(root) else "nothing there"
            names = ", ".join(shipped_names("adapters"))
            self.problems.append(
                f"not an adapter: expected a folder, got {what}. Check the path; a hub id is owner/name, and shipped "
                f"with the package: {names or 'none'}."
            )
            return
        self._blobs = _blob_folders(root)
        if not os.path.lexists(root / CONFIG_FILE):
            self.problems.append(f"not an adapter: expected a folder with {CONFIG_FILE}, got one without.")

    def read(self, name: str, limit: int) -> bytes | None:
        """Bytes of a file of the format, or None and a problem."""
        path = self._locate(name)
        if path is None:
            return None
        try:
            # Looked at before it is opened: opening a named pipe waits, opening a device may do something.
            if not stat.S_ISREG(os.lstat(path).st_mode):
                self.problems.append(f"{name} is not a regular file.")
                return None
            # O_NOFOLLOW and O_NONBLOCK: nor may a link or pipe that was swapped in since.
            flags = (
                os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            )
            with os.fdopen(os.open(path, flags), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    self.problems.append(f"{name} is not a regular file.")
                    return None
                if status.st_size > limit:
                    self.problems.append(f"{name} is too large: expected at most {limit} bytes, got {status.st_size}.")
                    return None
                return file.read(status.st_size)
        except (FileNotFoundError, NotADirectoryError):
            self.problems.append(f"missing file {name}.")
        except OSError as error:
            self.problems.append(f"{name} cannot be read: {error.strerror}.")
        return None

    def _locate(self, name: str) -> Path | None:
        """The file's own place; the blob's where the folder is a snapshot in the hub's cache."""
        path = self.root
        *folders, file = name.split("/")
        for part in folders:
            path = path / part
            if path.is_symlink():
                self.problems.append(f"{name} is behind a symlink: expected a real folder {part}. Copy it there.")
                return None
        path = path / file
        if not path.is_symlink():
            return path
        if not self._blobs:
            self.problems.append(f"{name} is a symlink: expected a real file inside the folder. Copy it there.")
            return None
        end = Path(os.path.realpath(path))
        if any(blobs in end.parents for blobs in self._blobs):
            return end
        self.problems.append(
            f"{name} is a symlink out of the hub's cache: expected one to a blob there. Download the adapter again."
        )
        return None


def _blob_folders(root: Path) -> tuple[Path, ...]:
    """Where the files of <cache>/models--<owner>--<name>/snapshots/<commit> may lie; none for any other folder."""
    snapshot = Path(os.path.realpath(root))
    repository = snapshot.parent.parent
    if snapshot.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return ()
    return repository / "blobs", repository.parent / "blobs"  # the second: blobs that repositories share


def write_folder(target: Path, files: Mapping[str, bytes], check: Callable[[Path], Any]) -> None:
    """Write files into a folder beside the target, check it, and rename it into place.

    Args:
        target: a new folder, an empty one, one with only a card, or an older adapter, which is replaced.
            Files that are not the adapter's are kept.
        files: content by path inside the folder.
        check: raises AdapterError if what was written is no good.

    Raises:
        AdapterError: from `check`, or the target holds something else. The target is as before.
        OSError: the disk refused.
    """
    check_target(target)
    staging = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        for name, data in files.items():
            _write(staging / name, data)
        try:
            check(staging)
        except AdapterError as error:
            raise AdapterError(target, error.problems) from None
        _replace(target, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_target(target: Path) -> None:
    """Refuse, before any work, a folder that no adapter could be written to.

    Raises:
        AdapterError: it holds something else, or the disk refuses.
    """
    if _is_foreign(target):
        raise AdapterError(target, ["the target exists and is not a safety adapter. Choose another folder."])
    try:
        check_writable(target.parent)
    except ConfigError as error:
        raise AdapterError(target, [str(error)]) from error


def _is_foreign(target: Path) -> bool:
    if target.is_symlink() or not target.is_dir():
        return os.path.lexists(target)
    entries = list(target.iterdir())
    if target / CONFIG_FILE in entries:
        try:
            value = json.loads((target / CONFIG_FILE).read_bytes())
        except (OSError, ValueError, RecursionError):
            return True
        return not isinstance(value, dict) or value.get("format") != FORMAT
    return not all(entry.is_file() and (entry.suffix == ".md" or entry.name.startswith(".")) for entry in entries)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(target: Path, staging: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    ours = {name.partition("/")[0] for name in format_files()}
    for item in target.iterdir():
        if item.name in ours:
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.copytree(item, staging / item.name, symlinks=True)
        else:
            shutil.copy2(item, staging / item.name, follow_symlinks=False)
    old = staging.with_suffix(".old")
    target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
