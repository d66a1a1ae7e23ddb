"""Where a benchmark's data are: a folder, or a dataset repository on the hub, downloaded into its cache."""

import os
from pathlib import Path

from safety_modules.errors import DataError
from safety_modules.io.hub import download, hub_id


def data_folder(place: str | os.PathLike[str]) -> Path:
    """The local folder of a benchmark.

    Args:
        place: a folder; or `hf://owner/name`, or `owner/name` where no such folder is here, with `@revision` after it
            to get the same data for ever.

    Raises:
        DataError: neither is there, or the hub cannot be reached and its cache has no copy.

    Does not cover: checking the files; the readers do.
    """
    repository = None if os.path.exists(place) else hub_id(place)
    if repository is not None:
        return download(repository, lambda problem: DataError(f"{repository.repository} {problem}"), kind="dataset")
    if not os.path.isdir(place):
        raise DataError(f"no data: expected a folder or a hub id (hf://owner/name), got {place}. Check the path.")
    return Path(place)
