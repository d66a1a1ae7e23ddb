"""From what somebody calls a model, an adapter or a data set to a folder on this disk, downloaded first if need be.

A path that exists wins, then the name of something shipped with the package, then a hub id.
"""

import os
import re
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

ADDRESS = "hf://"
_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")


class HubId(NamedTuple):
    """A repository on the hub, and the branch, tag or commit of it, if one is named."""

    repository: str
    revision: str | None


def hub_id(name: str | PathLike[str]) -> HubId | None:
    """The repository that a name means; None where it means a path.

    `hf://owner/name` is always a repository. `owner/name` is one where nothing of this name and no folder `owner` is
    here: beside such a folder it is more probably a path with a slip in it. A `Path`, and what is here, is a path.
    """
    if not isinstance(name, str) or os.path.exists(name):
        return None
    found = _HUB_ID.fullmatch(name.removeprefix(ADDRESS))
    if found is None or (not name.startswith(ADDRESS) and os.path.lexists(name.partition("/")[0])):
        return None
    return HubId(found["id"], found["revision"])


def download(
    repository: HubId,
    refuse: Callable[[str], Exception],
    *,
    kind: str = "model",
    files: Sequence[str] | None = None,
) -> Path:
    """The local copy of a repository, in the hub's cache.

    Args:
        repository: see `hub_id`.
        refuse: makes the exception to raise from a sentence that begins after the repository's name.
        kind: `model` or `dataset`.
        files: patterns of the files to download; None = all.
    """
    import huggingface_hub

    options: dict[str, Any] = {} if kind == "model" else {"repo_type": kind}
    if files is not None:
        options["allow_patterns"] = [*files]
    try:
        return Path(huggingface_hub.snapshot_download(repository.repository, revision=repository.revision, **options))
    except Exception as error:  # the hub's errors, its HTTP library's, the disk's: each says why in its own way
        raise refuse(_problem(repository, kind, error)) from error


def _problem(wanted: HubId, kind: str, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "is gated on the hub: expected access, got none. Ask for it on its page, then log in (hf auth login)."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"not found: expected a folder here or a {kind} on the hub, got neither. "
            "Check the spelling, or log in if it is private (hf auth login)."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"not found: expected revision {wanted.revision!r} in the repository on the hub, got none. "
            "Name an existing one."
        )
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        option = "" if kind == "model" else f"--repo-type {kind} "
        return (
            "not found: expected a folder of this name, or the hub, or a copy in its cache; got none of them. Check "
            "the path; or go online (is HF_HUB_OFFLINE set?); or run "
            f"`hf download {option}{wanted.repository}` where there is a network and pass the folder."
        )
    return f"not downloaded: {words(error)} Check the connection and the name."


def words(error: Exception) -> str:
    """An exception of somebody else's as a sentence."""
    return f"{type(error).__name__}: {str(error).strip().rstrip('.')}."
