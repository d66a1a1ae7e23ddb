"""A header that lies is refused in words of its own, before a tensor is made."""

import json
import struct

import pytest

from adapters import SAFETY, edit_header, join, only, problems_of, replace, save, split
from safety_modules.adapter.header import read_header


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "adapter")


def read(header, body=b""):
    problems = []
    entries = read_header(join(header, body), "file", problems)
    assert (entries is None) == bool(problems)
    return entries, problems


def tensor(dtype="F16", shape=(2,), place=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


def test_an_honest_header_is_read():
    entries, _ = read({"__metadata__": {"format": "pt"}, "a": tensor(), "b": tensor(place=(4, 8))}, bytes(8))
    assert entries["b"] == ("F16", (2,), 4, 8)


@pytest.mark.parametrize("keep", [0, 4, 7, 8, 100, -1])
def test_truncated_file(folder, keep):
    replace(folder, (folder / SAFETY).read_bytes()[:keep])
    assert f"{SAFETY} is truncated: expected " in only(problems_of(folder))


@pytest.mark.parametrize("length", [10**6 + 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_length_like_a_zip_bomb_is_refused_unread(folder, length):
    replace(folder, struct.pack("<Q", length) + (folder / SAFETY).read_bytes()[8:])
    assert f"got one that claims {length}" in only(problems_of(folder))


def test_bytes_left_over(folder):
    replace(folder, (folder / SAFETY).read_bytes() + b"hidden")
    assert only(problems_of(folder)) == f"{SAFETY}: 6 bytes after the last tensor belong to no tensor."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h["head.concepts"].update(shape=[9, 16]), "lies about 'head.concepts': F16 of shape [9, 16] takes"),
        (lambda h: h["head.concepts"].update(shape=[2**62, 2**62]), "lies about 'head.concepts'"),
        (
            lambda h: h["head.concepts"].update(dtype="F32"),
            "lies about 'head.concepts': F32 of shape [6, 16] takes 384",
        ),
        (lambda h: h["head.concepts"].update(data_offsets=[0, 0]), "lies about 'head.concepts'"),
        (lambda h: h["head.concepts"].update(data_offsets=[9, 0]), "lies about 'head.concepts'"),
        (lambda h: h["head.concepts"].update(shape=[-6, 16]), "'head.concepts' is not the description of a tensor"),
        (lambda h: h["head.concepts"].update(shape=[6.0, 16]), "is not the description of a tensor"),
        (lambda h: h["head.concepts"].update(shape=[True, 16]), "is not the description of a tensor"),
        (lambda h: h["head.concepts"].update(shape=[1] * 100 + [6, 16]), "is not the description of a tensor"),
        (lambda h: h["head.concepts"].update(dtype="F4"), "is not the description of a tensor"),
        (lambda h: h["head.concepts"].update(dtype=["F16"]), "is not the description of a tensor"),
        (lambda h: h["head.concepts"].update(data_offsets=[0]), "is not the description of a tensor"),
        (lambda h: h["head.concepts"].update(note="hello"), "is not the description of a tensor"),
        (lambda h: h.update(more=7), "'more' is not the description of a tensor"),
        (lambda h: h.update(__metadata__={"size": 1}), "__metadata__ is not an object of strings"),
        (lambda h: h.update(__metadata__=[]), "__metadata__ is not an object of strings"),
    ],
)
def test_a_header_that_lies(folder, change, words):
    edit_header(folder, change)
    assert words in only(problems_of(folder))


def test_overlapping_tensors():
    _, problems = read({"a": tensor(place=(0, 4)), "b": tensor(place=(2, 6))}, bytes(6))
    assert only(problems) == "the header of file: 'b' overlaps the tensor before it."


def test_two_tensors_in_one_place():
    _, problems = read({"a": tensor(), "b": tensor()}, bytes(4))
    assert only(problems) == "the header of file: 'b' overlaps the tensor before it."


def test_a_hole_between_tensors():
    _, problems = read({"a": tensor(place=(0, 4)), "b": tensor(place=(6, 10))}, bytes(10))
    assert only(problems) == "the header of file: 2 bytes before 'b' belong to no tensor."


def test_a_tensor_beyond_the_file():
    _, problems = read({"a": tensor(shape=(2**61,), place=(0, 2**62))}, bytes(4))
    assert only(problems).startswith(f"file is truncated: expected {2**62} bytes of tensors, got 4")


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b"[]", b"\xff\xff", b'{"a": 1, "a": 1}', b'{"a": NaN}', b"[" * 50_000, b'{"a": 1e999}', b" \x00"],
)
def test_a_header_that_is_not_a_json_object(header):
    assert only(read(header)[1]).startswith("the header of file is not ")


def test_the_same_tensor_named_twice_is_refused(folder):
    header, body = split((folder / SAFETY).read_bytes())
    text = json.dumps(header)
    again = f', "head.concepts": {json.dumps(header["head.concepts"])}}}'
    replace(folder, join((text[:-1] + again).encode(), body))
    assert "a key appears twice" in only(problems_of(folder))


def test_many_lies_are_counted_not_all_listed():
    _, problems = read({f"t{number}": 1 for number in range(100)})
    assert len(problems) == 9 and problems[-1] == "the header of file: and 92 more lies."
