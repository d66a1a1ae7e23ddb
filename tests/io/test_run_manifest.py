"""Is this the same run? What a manifest refuses, names, lets grow and notes; and that it is there whole."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_modules.errors import ConfigError, DataError
from safety_modules.io.run_manifest import begin_run, check_run

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEY = {"recipe": {"epochs": 2, "rates": (0.1, 0.2)}, "base": "abc"}


def test_the_same_run_goes_on_and_its_manifest_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    assert check_run(path, KEY) == {} and not path.parent.exists()
    assert begin_run(path, KEY) == []
    written = path.stat()
    assert begin_run(path, dict(reversed(KEY.items()))) == []
    assert check_run(path, KEY) == {"recipe": {"epochs": 2, "rates": [0.1, 0.2]}, "base": "abc"}
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({**KEY, "base": "abd"}, "base"),
        ({**KEY, "recipe": {"epochs": 3, "rates": [0.1, 0.2]}, "base": 1}, "recipe, base"),
        ({"base": "abc"}, "recipe"),
        ({**KEY, "dtype": "float16"}, "dtype"),
    ],
)
def test_another_run_is_refused_by_the_names_of_what_differs(
    tmp_path: Path, other: dict[str, object], named: str
) -> None:
    path = tmp_path / "run.json"
    begin_run(path, KEY)
    before = path.read_bytes()
    again = named.replace(", ", ", another ")
    message = (
        f"^not resumed: expected the {named} that {tmp_path} was begun with, got another {again}. Use the same, or"
    )
    for call in (check_run, begin_run):
        with pytest.raises(ConfigError, match=message):
            call(path, other)
        with pytest.raises(DataError, match=message):
            call(path, other, error=DataError)
    assert path.read_bytes() == before


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.dictionaries(st.text(max_size=4), VALUES, max_size=4)
)
def test_two_keys_are_one_run_where_each_value_is_equal_and_missing_is_none(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, object], second: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("run") / "run.json"
    begin_run(path, first)
    begin_run(path, first)
    if all(first.get(name) == second.get(name) for name in {*first, *second}) or not first:
        begin_run(path, second)
    else:
        with pytest.raises(ConfigError, match="not resumed"):
            begin_run(path, second)


def test_what_may_grow_is_added_and_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    begin_run(path, KEY, {"judge strings": {"version": 1}})
    begin_run(path, KEY, {"judge local": {"model": "m"}})
    begin_run(path, KEY)
    with pytest.raises(ConfigError, match="got another judge strings"):
        begin_run(path, KEY, {"judge strings": {"version": 2}, "judge third": {}})
    assert check_run(path, KEY)["growing"] == {"judge strings": {"version": 1}, "judge local": {"model": "m"}}


def test_sessions_are_noted_in_order_and_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert begin_run(path, KEY, session={"torch": "2.0"}) == [{"torch": "2.0"}]
    assert begin_run(path, KEY, session={"torch": "2.1"}) == [{"torch": "2.0"}, {"torch": "2.1"}]
    assert begin_run(path, KEY) == json.loads(path.read_bytes())["sessions"]


@pytest.mark.parametrize(("content", "found"), [("{", "to be JSON"), ("[1]", "a JSON object"), ("\xff", "to be JSON")])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"run not read: expected .*{found}"):
        begin_run(path, KEY)
    assert path.read_bytes() == content.encode("latin-1")


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"run not begun: expected a folder at .*file"):
        begin_run(tmp_path / "file" / "run.json", KEY, error=DataError)
