"""The proof: a dataset with planted risks, small."""

import json
from pathlib import Path

import pytest
from audit_findings import evaluate_audit
from scripts import invoke

from safety_modules.errors import DataError

pytest.importorskip("pyarrow")


@pytest.mark.slow
def test_an_audit_of_a_small_pocket_dataset_finds_most_of_what_was_planted(tmp_path: Path) -> None:
    arguments = ["audit_findings.py", "--samples", "400", "--share", "0.05", "--out", str(tmp_path / "proof")]
    result = invoke(*arguments, "--json", tmp_path / "n.json", catch_exceptions=False)
    assert result.exit_code == 0 and "wrong labels found" in result.output
    found = json.loads((tmp_path / "n.json").read_text())
    assert found["counts"]["rows"] == 400 and found["own"]["all"]["recall"]["n"] == 20
    assert found["own"]["seen"]["recall"]["value"] >= 0.8
    assert found["own"]["seen"]["clean_flagged"]["value"] <= 0.05
    assert found["budget"]["all"]["clean_flagged"]["value"] <= 0.01
    assert found["labels"]["recall"]["value"] >= 0.8


def test_too_small_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Raise it"):
        evaluate_audit(tmp_path, samples=100)
