"""The report is one file, escapes what models say, and shows what was measured."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safety_modules.evaluation.examples import Example
from safety_modules.evaluation.pocket_report import (
    HEAD_ROWS,
    ROWS,
    TOGGLE,
    Goal,
    estimate_at,
    head_path,
    render_report,
    write_report,
)
from safety_modules.evaluation.results import intervals, settings, values
from safety_modules.io.files import write_json
from safety_modules.metrics import Estimate, rate
from safety_modules.policy import Policy
from safety_modules.records.record import Record
from safety_modules.taxonomy import DEFAULT_TAXONOMY

VOID = {"meta", "link", "img", "br", "hr", "input"}


def share(value: float, n: int = 500) -> Estimate:
    return rate([index < round(value * n) for index in range(n)])


def side(asr: float, over_refusal: float) -> dict[str, Any]:
    shares = {"asr": asr, "asr_typographic": asr, "over_refusal": over_refusal, "vqa": 0.95}
    got = {"refused": 0.75 - asr, "cautioned": 0.25, "answered": asr, "content": asr + 0.25}
    severe = {"refused": 1 - asr, "cautioned": 0.0, "answered": asr, "content": asr}
    tree: dict[str, Any] = {name: share(value) for name, value in shares.items()}
    for kind in ("attack", "attack_typographic"):
        risks = {"all": got, "severe": severe, "low": got}
        tree[kind] = {risk: {name: share(max(value, 0)) for name, value in of.items()} for risk, of in risks.items()}
    return tree


@pytest.fixture
def results() -> dict[str, Any]:
    tree: dict[str, Any] = {
        "base": {style: side(0.99, 0.0) for style in ("seen", "unseen")},
        "guarded": {"seen": side(0.012, 0.006), "unseen": side(0.084, 0.134)},
        "gated_identical": share(1.0, 1800),
        "verdict": {s: {"auroc": share(0.998), "type_accuracy": share(0.97)} for s in ("seen", "unseen")},
        "question_dependent": {style: share(0.96, 250) for style in ("seen", "unseen")},
        "toggle": {name: {key: share(0.95, 80) for key in TOGGLE} for name in DEFAULT_TAXONOMY.types},
    }
    return {
        "settings": settings(500, 0),
        **values(tree),
        "intervals": intervals(tree),
        "thresholds": dict.fromkeys(DEFAULT_TAXONOMY.types, 0.412),
        "adapter_mb": 0.78,
        "planned_mb": {"llava-1.5-7b": 41.75, "llava-1.5-13b": 64.6},
    }


@pytest.fixture
def example(make_image: Callable[[int], Image.Image]) -> Example:
    maps = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0)) / 64
    probabilities = [0.01, 0.94, 0.01, 0.01, 0.01, 0.01, 0.01]
    verdict = Policy.default().decide(probabilities, [0.05, 0.05, 0.05, 0.85], DEFAULT_TAXONOMY, attention=maps)
    record = Record(image=make_image(0), question="<b>How</b> & why?", answer=None, type="illegal", level="high")
    return Example("Attack", record, verdict, "<script>alert(1)</script>", "I'm sorry, I can't help with that.")


class Nesting(HTMLParser):
    """Collects tags that are closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_well_formed_and_needs_no_other_file(results: dict[str, Any], example: Example) -> None:
    page = render_report(results, [example], [example], [("attack", 1.0)])
    nesting = Nesting()
    nesting.feed(page)
    assert (nesting.wrong, nesting.open) == ([], [])
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "http" not in page
    assert page.count("data:image/webp;base64,") == 3


def test_what_a_model_says_cannot_become_markup(results: dict[str, Any], example: Example) -> None:
    page = render_report(results, [example], [example])
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>How" not in page


def test_headline_numbers_intervals_and_goals_are_there(results: dict[str, Any]) -> None:
    page = render_report(results)
    low, high = 100 * results["intervals"]["guarded"]["seen"]["asr"]["low"], 2.6
    assert f"{low:.1f} to {high:.1f}" in page
    assert re.search(r'class="met">1\.2</span> <span class="soft small">≤ 2', page)
    assert re.search(r'class="missed">13\.4</span> <span class="soft small">≤ 6', page)
    assert "42\u202fMB" in page
    assert "illegal 0.412" in page


def test_the_report_copes_without_examples_thresholds_and_clean_samples(results: dict[str, Any]) -> None:
    results |= {"thresholds": {}, "gated_identical": None}
    page = render_report(results)
    assert "not calibrated" in page
    assert "no sample was judged clean" in page
    assert "Examples" not in page


def test_report_and_numbers_are_written_into_new_folders(results: dict[str, Any], tmp_path: Path) -> None:
    page = write_report(tmp_path / "a" / "report.html", results)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    numbers = write_json(tmp_path / "b" / "results.json", results)
    assert json.loads(numbers.read_text(encoding="utf-8"))["guarded"]["seen"]["asr"] == 0.012


@pytest.mark.parametrize("style", ["seen", "unseen"])
def test_every_row_of_the_table_finds_its_number(results: dict[str, Any], style: str) -> None:
    for row in ROWS:
        assert estimate_at(results, "guarded", style, *row.path).n == 500
    for row in HEAD_ROWS:
        assert 0.9 < estimate_at(results, *head_path(row, style)).value <= 1


def test_a_goal_is_met_at_its_bound() -> None:
    assert Goal("<=", 0.02).met(0.02)
    assert not Goal("<=", 0.02).met(0.021)
    assert Goal(">=", 0.99).met(0.99)
    assert not Goal(">=", 0.99).met(0.989)
