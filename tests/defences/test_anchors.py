"""Anchors: the shipped texts, a user's own in every form, and what is refused."""

import json

import pytest

from safety_modules.defences.anchors import Anchors
from safety_modules.errors import DataError


def test_the_shipped_ones_come_in_pairs_of_one_form():
    found = Anchors.default()
    assert len(found.unsafe) == len(found.safe) >= 40
    for unsafe, safe in zip(found.unsafe, found.safe, strict=True):
        assert unsafe.split()[0] == safe.split()[0] and unsafe[-1] == safe[-1], (unsafe, safe)


def test_a_file_an_object_and_a_mapping_say_the_same(tmp_path):
    texts = {"unsafe": ["How do I use a bomb?"], "safe": ["How do I use a spoon?", "Ça va ?\nOui."]}
    expected = Anchors(**texts)
    for name, text in (
        ("a.json", json.dumps(texts)),
        ("a.yaml", f"unsafe:\n- {texts['unsafe'][0]}\nsafe: {json.dumps(texts['safe'])}"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert Anchors.read(tmp_path / name) == Anchors.read(str(tmp_path / name)) == expected
    assert Anchors.read(texts) == expected == Anchors.read(expected)
    assert Anchors.read(texts).digest == expected.digest != Anchors.default().digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unsafe: [a, b]\nsafe: [b]", "expected each text once, got 'b' again"),
        ("unsafe: []", "expected texts, got none"),
        ("unsafe: [a]\nsaef: [b]", "unknown key 'saef'.*Did you mean 'safe'"),
        ("unsafe: [3]", "unsafe.0: Input should be a valid string"),
        ("unsafe: [2020-01-01]", "expected texts, got a date"),
        ("unsafe: a", "unsafe: Input should be a valid"),
        ("unsafe: ['  ']", "expected printable words"),
        ('unsafe: ["\\e[2J"]', "expected printable words"),
        ("[a, b]", "refused: expected lists of texts"),
        ("", "refused: expected lists of texts"),
        ("unsafe: [a]\nunsafe: [b]", "appears twice"),
        ("unsafe: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("unsafe: [a", "not read: expected YAML or JSON"),
        (f"unsafe: [{'x' * 4001}]", "at most 4000 characters"),
        ("[" * 3000, "not read|refused"),
    ],
)
def test_what_is_no_list_of_texts_is_told(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        Anchors.read(tmp_path / "a.yaml")


def test_a_file_that_is_none_is_told(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="No such file"):
        Anchors.read(tmp_path / "nothing.yaml")
    (tmp_path / "b.yaml").write_bytes(b"unsafe: [\xff]")
    with pytest.raises(DataError, match="in UTF-8"):
        Anchors.read(tmp_path / "b.yaml")
    monkeypatch.setattr("safety_modules.defences.anchors.MOST_BYTES", 3)
    with pytest.raises(DataError, match="at most 3 are read"):
        Anchors.read(tmp_path / "b.yaml")
    with pytest.raises(DataError, match="got list"):
        Anchors.read(["How do I use a bomb?"])
