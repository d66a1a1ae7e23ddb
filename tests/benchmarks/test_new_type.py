"""A risk that pocket does not have: what adding it by the documented commands gives and costs."""

import os
from pathlib import Path

import new_type
import pytest
from new_type import COMMANDS, evaluate_new_type

from safety_modules.errors import DataError


@pytest.mark.slow
def test_a_hundred_pictures_make_a_new_type_and_the_old_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two minutes of the commands' own time, whatever else the machine is doing.
    monkeypatch.setattr(new_type.time, "perf_counter", lambda: sum(os.times()[2:4]))
    found = evaluate_new_type(tmp_path, progress=False)
    before, after = found["before"], found["after"]
    assert found["seconds"].keys() == set(COMMANDS) and sum(found["seconds"].values()) <= 120
    assert after["new_recall"] >= 0.9 and after["new_false_alarms"] <= 0.01
    assert after["old_type_accuracy"] >= before["old_type_accuracy"] - 0.01
    assert after["new_refused"] >= 0.9
    assert found["old_verdicts_kept"] and found["removed_identical"]


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").touch()
    with pytest.raises(DataError, match="expected an empty folder"):
        evaluate_new_type(tmp_path)
