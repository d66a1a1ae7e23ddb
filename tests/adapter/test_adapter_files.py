"""A stranger's folder: nothing outside it is read, nothing in it is waited for, each file is read once."""

import os
import pickle

import pytest
import torch

from adapters import FILES, SAFETY, only, problems_of, replace, save
from safety_modules.adapter.files import Folder
from safety_modules.adapter.folder import Adapter, read_adapter

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "adapter")


@pytest.fixture
def snapshot(tmp_path, folder):
    """The adapter as huggingface_hub keeps it: links into a folder of blobs, one blob shared by repositories."""
    repository = tmp_path / "hub" / "models--someone--safe"
    snapshot = repository / "snapshots" / COMMIT
    shared = tmp_path / "hub" / "blobs" / "ab"
    for place in (snapshot / "lora", repository / "blobs", shared):
        place.mkdir(parents=True)
    for number, name in enumerate(FILES):
        blob = repository / "blobs" / f"etag{number}"
        if name == SAFETY:
            (folder / name).rename(shared / "hash")
            blob.symlink_to(os.path.relpath(shared / "hash", blob.parent))
        else:
            (folder / name).rename(blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    return snapshot


def test_not_a_folder(tmp_path):
    assert "expected a folder, got nothing there" in only(problems_of(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    assert "expected a folder, got a file" in only(problems_of(tmp_path / "file"))
    assert "got nothing there" in only(problems_of("no\0where"))
    assert "got nothing there" in only(problems_of("x" * 5000))


def test_a_folder_that_is_not_an_adapter(tmp_path, folder):
    assert "expected a folder with adapter_config.json, got one without" in only(problems_of(tmp_path))
    assert "this is a plain peft adapter" in only(problems_of(folder / "lora"))


@pytest.mark.parametrize("name", FILES[1:])
def test_missing_file(folder, name):
    (folder / name).unlink()
    assert only(problems_of(folder)) == f"missing file {name}."


def test_a_file_in_place_of_the_lora_folder(folder, tmp_path):
    (folder / "lora").rename(tmp_path / "away")
    (folder / "lora").write_text("x")
    assert problems_of(folder) == [f"missing file {name}." for name in (FILES[3], FILES[2])]


@pytest.mark.parametrize("name", FILES)
def test_symlinked_file(tmp_path, folder, name):
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert only(problems_of(folder)).startswith(f"{name} is a symlink: expected a real file")


def test_symlinked_lora_folder(tmp_path, folder):
    (folder / "lora").rename(tmp_path / "elsewhere")
    (folder / "lora").symlink_to(tmp_path / "elsewhere")
    problems = problems_of(folder)
    assert len(problems) == 2 and all("is behind a symlink" in problem for problem in problems)


def test_the_folder_itself_may_be_named_by_a_link(tmp_path, folder):
    (tmp_path / "current").symlink_to(folder)
    assert isinstance(read_adapter(tmp_path / "current"), Adapter)


def test_a_snapshot_in_the_hubs_cache_is_read_through_its_links(snapshot):
    adapter = read_adapter(snapshot)
    assert adapter.path == snapshot and adapter.parts[0].lora_tensors


def test_a_snapshot_whose_link_leaves_the_cache_is_refused(tmp_path, snapshot):
    (tmp_path / "secret").write_bytes((snapshot / SAFETY).read_bytes())
    for target in (tmp_path / "secret", "../../../../secret", "../../blobs/../../../secret"):
        (snapshot / SAFETY).unlink()
        (snapshot / SAFETY).symlink_to(target)
        assert only(problems_of(snapshot)).startswith(f"{SAFETY} is a symlink out of the hub's cache")


def test_a_snapshot_with_a_linked_folder_is_refused(tmp_path, snapshot):
    (snapshot / "lora").rename(snapshot.parents[1] / "blobs" / "lora")
    (snapshot / "lora").symlink_to("../../blobs/lora")
    assert all("is behind a symlink" in problem for problem in problems_of(snapshot))


def test_a_blob_that_is_a_loop_a_pipe_or_not_yet_there_is_refused(snapshot):
    blob = snapshot.parents[1] / "blobs" / "etag0"
    blob.unlink()
    assert only(problems_of(snapshot)) == "missing file adapter_config.json."
    os.mkfifo(blob)
    assert only(problems_of(snapshot)) == "adapter_config.json is not a regular file."
    blob.unlink()
    blob.symlink_to(blob)
    assert only(problems_of(snapshot)).startswith("adapter_config.json is ")


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_a_folder_or_a_device_in_place_of_a_file_does_not_hang(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert only(problems_of(folder)) == f"{name} is not a regular file."
    (folder / name).unlink()
    (folder / name).mkdir()
    assert only(problems_of(folder)) == f"{name} is not a regular file."
    (folder / name).rmdir()
    (folder / name).symlink_to("/dev/zero")
    assert only(problems_of(folder)).startswith(f"{name} is a symlink")


def test_a_link_swapped_in_after_the_check_is_not_followed(folder, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("{}")
    lstat = os.lstat

    def swap_afterwards(path, **options):
        status = lstat(path, **options)
        if str(path).endswith(SAFETY):
            (folder / SAFETY).unlink()
            (folder / SAFETY).symlink_to(tmp_path / "secret")
        return status

    reader = Folder(folder)
    monkeypatch.setattr("safety_modules.adapter.files.os.lstat", swap_afterwards)
    assert reader.read(SAFETY, 1000) is None
    assert only(reader.problems).startswith(f"{SAFETY} cannot be read: ")


def test_every_file_is_opened_once_so_what_was_checked_is_what_is_used(folder, monkeypatch):
    opened = []
    real = os.open

    def spy(path, *args, **options):
        opened.append(os.path.relpath(path, folder))
        return real(path, *args, **options)

    monkeypatch.setattr("safety_modules.adapter.files.os.open", spy)
    adapter = read_adapter(folder)
    assert sorted(opened) == sorted(FILES)
    (folder / SAFETY).write_bytes(b"changed since")
    assert all(torch.isfinite(tensor).all() for tensor in adapter.parts[0].tensors.values())


def test_a_file_too_large_for_its_tensors_is_not_read(folder):
    for name in FILES:
        size = (folder / name).stat().st_size
        os.truncate(folder / name, 10**12)  # sparse
        assert f"{name} is too large: expected at most" in only(problems_of(folder))
        os.truncate(folder / name, size)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_files_of_the_owner_are_not_read(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    os.mkfifo(folder / "pipe")
    (folder / "lora" / "link").symlink_to("/etc")
    assert isinstance(read_adapter(folder), Adapter)


def test_a_pickle_renamed_is_not_opened(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for data in (pickle.dumps(Bomb()), pickle.dumps(Bomb(), protocol=2)):
        replace(folder, data)
        assert f"{SAFETY} is a pickle under another name" in only(problems_of(folder))
    torch.save({"head.concepts": torch.ones(1)}, folder / SAFETY)
    replace(folder, (folder / SAFETY).read_bytes())
    assert f"{SAFETY} is a pickle under another name" in only(problems_of(folder))
    for data in (pickle.dumps(Bomb(), protocol=0), pickle.dumps(Bomb(), protocol=1)):
        replace(folder, data)
        assert SAFETY in only(problems_of(folder))
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_begins_as_a_pickle_does_is_no_pickle(folder, length):
    """80 02 is 640 in little-endian, and how pickles of protocol 2 begin."""
    (folder / SAFETY).write_bytes(length.to_bytes(8, "little") + b"{}".ljust(length))
    found = problems_of(folder)
    assert any("missing tensor" in problem for problem in found) and not any("pickle" in problem for problem in found)
