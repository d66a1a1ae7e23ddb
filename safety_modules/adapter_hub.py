"""Adapters on a model hub: found by id, downloaded into huggingface_hub's cache, and uploaded."""

import os
from difflib import get_close_matches
from os import PathLike
from pathlib import Path

from safety_modules.adapter_format import CONFIG_FILE, LORA_CONFIG_FILE, LORA_FILE, SAFETY_FILE
from safety_modules.bases import HUB_ID
from safety_modules.errors import AdapterError

FILES = [CONFIG_FILE, SAFETY_FILE, LORA_CONFIG_FILE, LORA_FILE]
"""What is downloaded and uploaded: the format's own files and no other."""


def find_adapter(adapter: str | PathLike[str], revision: str | None = None) -> Path:
    """The local folder of an adapter, downloaded first if it is on the hub.

    A `Path`, or a string that names something on this disk, is that folder. Any other string of the form
    "owner/name" is a hub id, unless a folder "owner" is here, which makes it a mistyped path.

    Args:
        adapter: folder or hub id.
        revision: branch, tag or commit of a hub id. Name a commit to get the same bytes for ever.

    Raises:
        AdapterError: the hub has no such adapter, or cannot be reached and the cache has none; or a revision of
            a folder.

    Does not cover: checking what was downloaded; `read_adapter` does.
    """
    if not isinstance(adapter, str) or os.path.exists(adapter) or not HUB_ID.fullmatch(adapter):
        if revision is not None:
            raise AdapterError(adapter, ["a revision of a folder: expected one only with a hub id. Leave it out."])
        return Path(adapter)
    beside = Path(adapter).parent
    if revision is None and beside.is_dir():
        alike = get_close_matches(Path(adapter).name, os.listdir(beside), 1)
        meant = f"{beside / alike[0]}" if alike else "the right name"
        raise AdapterError(
            adapter,
            [
                f"not found: expected a folder {Path(adapter).name!r} in {beside}, which is here, got none. Pass "
                f"{meant}; or, for the hub's repository of this name, a revision too."
            ],
        )
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(adapter, revision=revision, allow_patterns=FILES))
    except Exception as error:  # the hub's errors, its HTTP library's, the disk's: each says why in its own way
        raise AdapterError(adapter, [_download_problem(adapter, revision, error)]) from error


def push_adapter(
    folder: Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload safety adapter",
    create_pr: bool = False,
) -> str:
    """Upload an adapter folder, and make the repository if there is none. Arguments as `push_to_hub` has them.

    Returns:
        The address of the commit.

    Raises:
        AdapterError: the hub refused, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            allow_patterns=FILES,
            delete_patterns=["lora/*"],  # of an older adapter; what is uploaded anew is kept
        )
    except Exception as error:
        raise AdapterError(
            repo_id,
            [
                f"not uploaded: {_words(error)} Log in (hf auth login) with a token that may write there, "
                "or save_pretrained to a folder and upload that."
            ],
        ) from error
    return str(commit.commit_url)


def _download_problem(adapter: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "gated on the hub: expected access, got none. Ask for it on its page, then log in (hf auth login)."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "not found: expected a folder here or a public repository of this name, got neither. "
            "Check the spelling, or log in if it is private (hf auth login)."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"not found: expected revision {revision!r} in the repository, got none. Name an existing one."
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return (
            "not found: expected a folder of this name, or the hub, or a copy in its cache; got none of them. Check "
            "the path; or go online (is HF_HUB_OFFLINE set?); or run `hf download "
            f"{adapter}` where there is a network and pass the folder."
        )
    return f"not downloaded: {_words(error)} Check the connection and the name."


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().rstrip('.')}."
