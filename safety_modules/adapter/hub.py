"""Adapters on a model hub: found by id, downloaded into huggingface_hub's cache, and uploaded."""

import os
from difflib import get_close_matches
from os import PathLike
from pathlib import Path

from safety_modules.adapter.format import CONFIG_FILE, LORA_CONFIG_FILE, LORA_FILE, SAFETY_FILE
from safety_modules.errors import AdapterError
from safety_modules.io.hub import download, hub_id, words
from safety_modules.paths import shipped

FILES = [CONFIG_FILE, SAFETY_FILE, LORA_CONFIG_FILE, LORA_FILE]
"""What is downloaded and uploaded: the format's own files and no other."""


def find_adapter(adapter: str | PathLike[str], revision: str | None = None) -> Path:
    """The local folder of an adapter, downloaded first if it is on the hub.

    A `Path`, or a string that names something on this disk, is that folder; else a string may be the name of a shipped
    adapter, or a hub id: "owner/name" (where no folder "owner" is here) or "hf://owner/name", with "@revision" or not.

    Args:
        adapter: folder, shipped name or hub id.
        revision: branch, tag or commit of a hub id. Name a commit to get the same bytes for ever.

    Raises:
        AdapterError: the hub has no such adapter, or cannot be reached and the cache has none; or a revision of
            a folder.

    Does not cover: checking what was downloaded; `read_adapter` does.
    """
    if repository := hub_id(adapter):
        wanted = repository if revision is None else repository._replace(revision=revision)
        return download(wanted, lambda problem: AdapterError(adapter, [problem]), files=FILES)
    if revision is not None:
        raise AdapterError(adapter, ["a revision of a folder: expected one only with a hub id. Leave it out."])
    folder = shipped("adapters", adapter) or Path(adapter)
    beside = folder.parent
    if isinstance(adapter, str) and os.sep in adapter and beside.is_dir() and not folder.exists():
        alike = get_close_matches(Path(adapter).name, os.listdir(beside), 1)
        meant = f"{beside / alike[0]}" if alike else "the right name"
        raise AdapterError(
            adapter,
            [
                f"not found: expected a folder {Path(adapter).name!r} in {beside}, which is here, got none. Pass "
                f"{meant}; or, for a repository on the hub, hf://{adapter}."
            ],
        )
    return folder


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
                f"not uploaded: {words(error)} Log in (hf auth login) with a token that may write there, "
                "or save_pretrained to a folder and upload that."
            ],
        ) from error
    return str(commit.commit_url)
