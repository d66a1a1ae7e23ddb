"""A benchmark's pictures: in folders, or still inside the zip archives they were downloaded in."""

import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from safety_modules.errors import DataError
from safety_modules.records.images import EncodedImage


@dataclass(frozen=True)
class ZipMember(EncodedImage):
    """A picture inside a zip archive."""

    archive: Path
    member: str

    def read(self) -> bytes:
        try:
            with zipfile.ZipFile(self.archive) as archive:
                return archive.read(self.member)
        except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
            raise OSError(str(error)) from error

    def __str__(self) -> str:
        return f"{self.archive}!{self.member}"


class PictureFinder:
    """Looks pictures up by the names that a benchmark's table gives them.

    Args:
        places: folders and zip archives, in the order in which they are looked into; absent ones are passed over.

    Raises:
        DataError: an archive cannot be read.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self._places = list(places)
        self._members = {place: _members(place) for place in places if place.is_file()}

    def find(self, name: str) -> Path | EncodedImage:
        """The picture. In an archive it may lie below further folders, if only one does.

        Raises:
            DataError: there is none, or several.
        """
        wanted = PurePosixPath(name)
        if wanted.is_absolute() or ".." in wanted.parts:
            raise DataError(f"image: expected a name below the data's folder, got {name!r}.")
        for place in self._places:
            if (place / wanted).is_file():
                return place / wanted
            found = [
                member
                for member in self._members.get(place, {}).get(wanted.name, [])
                if PurePosixPath(member).parts[-len(wanted.parts) :] == wanted.parts
            ]
            if len(found) > 1:
                raise DataError(f"image: expected one {name} in {place}, got {', '.join(found)}.")
            if found:
                return ZipMember(place, found[0])
        raise DataError(f"image: expected {name} in {' or '.join(map(str, self._places))}, got none.")


def _members(archive: Path) -> dict[str, list[str]]:
    """Members of an archive by their last name."""
    names: dict[str, list[str]] = defaultdict(list)
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.namelist():
                if not member.startswith("__MACOSX/"):  # copies of names that macOS adds
                    names[PurePosixPath(member).name].append(member)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive}: expected a zip archive, got {error}. Download it again.") from error
    return names
