"""Reports of several trainings side by side: their numbers, and the refusal of what cannot stand side by side."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from comparison import across_seeds
from scripts import invoke

from safety_modules.errors import ConfigError
from safety_modules.evaluation.outcomes import MEASURES


def report(**asr: float) -> dict[str, Any]:
    """What `across_seeds` reads of a report with these attack success rates by system."""
    row = {name: {**dict.fromkeys(MEASURES), "asr": {"value": value}} for name, value in asr.items()}
    ratio = {"median": 1.5, "low": 1.0, "high": 2.0, "n": 9}
    return {
        "suite": {"name": "pocket", "digest": "abc"},
        "base": {"name": "llava-pocket"},
        "judges": {"string:start": {}},
        "results": {"string:start": {"all": row}},
        "attacks": {
            "string:start": {"all": {name: {"all": {"content": {"value": value}}} for name, value in asr.items()}}
        },
        "parts": {
            "string:start": {
                "attack/seen": {name: {"answered": {"value": value}} for name, value in asr.items()},
                "vqa": {name: {"answered": None} for name in asr},
            }
        },
        "verdicts": {"all": {name: {"auroc": {"value": 1 - value}} for name, value in asr.items() if name == "gated"}},
        "systems": {name: {"extra_mb": 0.5} for name in asr},
        "cost": {name: {"time_ratio": ratio, "time_ratio_benign": None} for name in asr},
    }


def save(folder: Path, content: Any) -> Path:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(content))
    return folder


def test_every_training_counts_and_what_is_not_trained_may_stand_in_one_report(tmp_path: Path) -> None:
    folders = [save(tmp_path / "0", report(none=1.0, ecso=0.75, gated=0.01)), save(tmp_path / "1", report(gated=0.02))]
    found = across_seeds(folders)["groups"]["all"]
    assert found["gated"]["asr"] == [0.01, 0.02] and found["ecso"]["asr"] == [0.75]
    assert found["gated"]["time"] == [1.5, 1.5] and found["gated"]["over_refusal"] == [None, None]
    assert across_seeds(folders)["attacks"]["all"]["gated"] == {"all": {"content": [0.01, 0.02]}}
    both = across_seeds(folders)
    assert both["parts"] == {"attack/seen": {"none": [1.0], "ecso": [0.75], "gated": [0.01, 0.02]}}
    assert both["auroc"] == {"all": {"gated": [0.99, 0.98]}}
    shown = invoke("comparison.py", "table", *folders, env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    lines = [line for line in shown.stdout.splitlines() if "gated" in line]
    assert "1.5 (1.0 to 2.0)" in lines[0] and "1.50" in lines[0]
    assert "1.5 (1.0 to 2.0)" in lines[-2] and "98.5 (98.0 to 99.0)" in lines[-1]


@pytest.mark.parametrize("key", ["suite", "base"])
def test_reports_on_other_cases_or_another_base_are_refused(tmp_path: Path, key: str) -> None:
    other = copy.deepcopy(report(gated=0.1))
    other[key]["name"] = "other"
    folders = [save(tmp_path / "0", report(gated=0.1)), save(tmp_path / "1", other)]
    with pytest.raises(ConfigError, match=f"expected the {key} of .*0, got another in .*1"):
        across_seeds(folders)


def test_another_judge_is_refused(tmp_path: Path) -> None:
    other = report(gated=0.1)
    other["judges"] = {"guard": {}}
    folders = [save(tmp_path / "0", report(gated=0.1)), save(tmp_path / "1", other)]
    with pytest.raises(ConfigError, match="expected the judge of"):
        across_seeds(folders)


@pytest.mark.parametrize("content", ["[]", "{}", "nonsense"])
def test_a_folder_without_a_report_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ConfigError, match=r"expected report\.json of an evaluation"):
        across_seeds([tmp_path])
    with pytest.raises(ConfigError, match=r"expected report\.json of an evaluation"):
        across_seeds([tmp_path / "missing"])
