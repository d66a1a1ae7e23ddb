"""Who judges is said wherever pocket looks at pictures that are not its own, and nowhere else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.audit import audit
from safety_modules.audit.report import write_report
from safety_modules.backbones import find_backbone
from safety_modules.cli import app
from safety_modules.pocket.base import NOTICE, is_pocket, notice


def run(*words: object) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def pictures(tmp_path: Path, make_image: Callable[[int], Image.Image]) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        make_image(number).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def test_pocket_is_known_by_what_it_is_not_by_where_it_lies_or_how_it_was_trained(
    tiny_base: Any, processor: Any
) -> None:
    model, own = pocket.load()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    assert is_pocket(find_backbone(model, own).fingerprint())
    other = find_backbone(tiny_base, processor).fingerprint()
    assert not is_pocket(other) and notice(other) is None


def test_classify_by_pocket_says_so_on_stderr_and_in_every_line_of_json(pictures: Path) -> None:
    shown = run("classify", *sorted(pictures.iterdir()))
    assert NOTICE in shown.stderr and NOTICE not in shown.stdout
    told = run("classify", *sorted(pictures.iterdir()), "--json")
    assert NOTICE in told.stderr
    assert [json.loads(line)["notice"] for line in told.stdout.splitlines()] == [NOTICE, NOTICE]


def test_an_audit_by_pocket_says_so_in_the_terminal_the_summary_and_the_report(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    told = run("audit", pictures, "--out", tmp_path / "out", "--workers", "0")
    assert NOTICE in told.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["notice"] == NOTICE
    assert NOTICE in (tmp_path / "out" / "report.html").read_text()
    assert NOTICE in run("audit", pictures, "--out", tmp_path / "out", "--workers", "0").stdout  # done already


def test_another_judge_is_not_taken_for_pocket(
    pictures: Path, saved_base: Path, saved_adapter: Path, tmp_path: Path
) -> None:
    where = ("--model", saved_base, "--adapter", saved_adapter)
    told = run("classify", *sorted(pictures.iterdir()), "--json", *where)
    assert "llava-pocket" not in told.stderr
    assert all("notice" not in json.loads(line) for line in told.stdout.splitlines())
    pytest.importorskip("pyarrow")
    found = audit(pictures, tmp_path / "out", saved_base, saved_adapter, workers=0, progress=False)
    assert found["notice"] is None
    assert NOTICE not in write_report(tmp_path / "out").read_text()
