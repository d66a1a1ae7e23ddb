"""Adapters are found on a hub by id and uploaded to it; no test reaches a network."""

import copy
import os
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from adapters import FILES
from safety_modules.adapter import read_adapter
from safety_modules.adapter.format import format_files
from safety_modules.adapter.hub import find_adapter
from safety_modules.attach import attach_safety
from safety_modules.errors import AdapterError, ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def into_cache(folder: Path, cache: Path, repo_id: str, commit: str = COMMIT, revision: str = "main") -> Path:
    """Lay a folder out as huggingface_hub's cache does."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    for place in (repository / "blobs", repository / "refs", repository / "snapshots" / commit / "lora"):
        place.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    for name in FILES:
        blob = repository / "blobs" / f"{commit[:8]}{abs(hash(name))}"
        blob.write_bytes((folder / name).read_bytes())
        pointer = repository / "snapshots" / commit / name
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    return repository / "snapshots" / commit


def error_of(kind: type[Exception], words: str = "no") -> Exception:
    """The hub's errors want a response that no test has."""
    error = kind.__new__(kind)
    Exception.__init__(error, words)
    return error


@pytest.fixture
def saved(safety, tmp_path):
    folder = safety.save_pretrained(tmp_path / "adapter")
    safety.detach()
    return folder


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty hub cache, without a network."""

    def no_network(*args, **options):
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", no_network)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_tree", no_network)
    return tmp_path / "hub"


def test_a_hub_id_attaches_from_the_cache_like_its_folder(saved, cache, model, processor, tiny_base):
    into_cache(saved, cache, "someone/safe")
    safety = attach_safety(model, processor, "someone/safe")
    local = attach_safety(copy.deepcopy(tiny_base), processor, saved)
    for (name, got), (_, expected) in zip(safety.named_parameters(), local.named_parameters(), strict=True):
        assert got.equal(expected), name


def test_a_revision_is_the_one_that_is_read(saved, cache, tiny_base, processor, safety, tmp_path):
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, 0.25)
    other = safety.save_pretrained(tmp_path / "other")
    into_cache(saved, cache, "someone/safe")
    snapshot = into_cache(other, cache, "someone/safe", commit="f" * 40, revision="v2")
    assert find_adapter("someone/safe", "v2") == snapshot == find_adapter("someone/safe", "f" * 40)
    assert attach_safety(copy.deepcopy(tiny_base), processor, "someone/safe").thresholds == {}
    second = attach_safety(copy.deepcopy(tiny_base), processor, "someone/safe", revision="v2")
    assert set(second.thresholds.values()) == {0.25}


def test_only_the_formats_own_files_are_asked_for(monkeypatch, saved):
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.update(options) or saved)
    assert find_adapter("someone/safe", "main") == saved
    assert asked["revision"] == "main" and asked["allow_patterns"] == format_files()
    assert set(FILES) <= set(format_files()) and not any("*" in name for name in format_files())


@pytest.mark.parametrize("name", ["someone/safe", "./someone/safe", "safe"])
def test_a_folder_of_this_name_comes_first(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    (tmp_path / name).mkdir(parents=True)
    assert find_adapter(name) == Path(name)


@pytest.mark.parametrize("name", [Path("someone/safe"), "nowhere", "../up/there", "/a/b", "a/b/c", "~me/x", "", "a\\b"])
def test_what_is_no_hub_id_is_never_looked_up(monkeypatch, name):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert find_adapter(name) == Path(name)


def test_a_mistyped_path_is_not_taken_for_a_hub_id(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    (tmp_path / "adapters" / "pocket-safe").mkdir(parents=True)
    with pytest.raises(AdapterError, match=r"expected a folder 'pocket-saef' in adapters.* Pass adapters/pocket-safe;"):
        find_adapter("adapters/pocket-saef")
    with pytest.raises(AdapterError, match=r"expected a folder 'other' in adapters, which is here, got none"):
        find_adapter("adapters/other")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: f"{name}@{options['revision']}")
    assert find_adapter("hf://adapters/other", "main") == Path("adapters/other@main")


def test_offline_and_not_in_the_cache_says_what_to_do(cache, model, processor):
    with pytest.raises(AdapterError, match="HF_HUB_OFFLINE") as caught:
        attach_safety(model, processor, "someone/safe")
    assert "hf download someone/safe" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.GatedRepoError, "gated on the hub"),
        (errors.RepositoryNotFoundError, "got neither. Check the spelling"),
        (errors.RevisionNotFoundError, "expected revision 'v9' in the repository"),
        (errors.LocalEntryNotFoundError, "or a copy in its cache; got none of them"),
        (errors.HfHubHTTPError, "not downloaded: HfHubHTTPError: no."),
        (TimeoutError, "not downloaded: TimeoutError: no."),
    ],
)
def test_what_the_hub_says_becomes_one_refusal_with_a_next_step(monkeypatch, error, words):
    def fail(*args, **options):
        raise error_of(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(AdapterError) as caught:
        find_adapter("someone/safe", "v9")
    assert words in caught.value.problems[0] and len(caught.value.problems) == 1


def test_a_broken_download_is_refused_like_any_folder(saved, cache, model, processor):
    snapshot = into_cache(saved, cache, "someone/safe")
    (snapshot / "safety.safetensors").resolve().unlink()
    with pytest.raises(AdapterError, match=r"missing file safety\.safetensors"):
        attach_safety(model, processor, "someone/safe")


def test_a_revision_needs_a_hub_id(saved, model, processor):
    with pytest.raises(AdapterError, match="a revision of a folder"):
        attach_safety(model, processor, saved, revision="main")
    with pytest.raises(ConfigError, match="a revision of nothing"):
        attach_safety(model, processor, revision="main")


@pytest.fixture
def hub(monkeypatch):
    """A hub that keeps what it is given."""
    hub = SimpleNamespace(calls=[], files={})

    class Api:
        def __init__(self, token=None):
            hub.calls.append(("token", token))

        def create_repo(self, repo_id, **options):
            hub.calls.append(("create", repo_id, options))

        def upload_folder(self, *, folder_path, **options):
            hub.calls.append(("upload", options))
            paths = [path for path in Path(folder_path).rglob("*") if path.is_file()]
            hub.files = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in paths}
            return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return hub


def test_push_to_hub_uploads_what_save_pretrained_writes_and_nothing_else(safety, hub, tmp_path):
    address = safety.push_to_hub("someone/safe", metadata={"note": 1}, private=True, token="secret")
    assert address == "https://hub/commit/1"
    assert hub.calls[:2] == [("token", "secret"), ("create", "someone/safe", {"private": True, "exist_ok": True})]
    assert set(hub.files) == set(FILES)
    for name, data in hub.files.items():
        (tmp_path / "down" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "down" / name).write_bytes(data)
    assert read_adapter(tmp_path / "down").config.metadata == {"note": 1}


def test_push_to_hub_removes_an_older_lora(safety, hub):
    safety.push_to_hub("someone/safe", revision="v2", commit_message="Better", create_pr=True)
    options = dict(hub.calls[2][1])
    assert set(options["allow_patterns"]) == set(format_files())
    assert set(options["delete_patterns"]) == set(format_files()) - {"adapter_config.json"}
    assert (options["revision"], options["commit_message"], options["create_pr"]) == ("v2", "Better", True)


def test_a_refused_upload_says_what_to_do(safety, hub, monkeypatch):
    def fail(*args, **options):
        raise PermissionError("403")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(AdapterError, match=r"not uploaded: PermissionError: 403\. Log in"):
        safety.push_to_hub("someone/safe")
