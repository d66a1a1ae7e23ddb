"""The page of an evaluation is one file, escapes what models say, and shows all that a reader needs to judge it."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
from browser import SIZES, launched, opened
from harness_fakes import FakeJudge, FakeSystem, make_benchmark, make_cases
from PIL import Image
from rich.console import Console
from test_report import Nesting

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.harness.run import RunSettings, evaluate
from safety_modules.evaluation.harness.sample import draw
from safety_modules.evaluation.outcomes import REACTIONS
from safety_modules.evaluation.terminal import print_overview

STRENGTHS = [
    Case(
        id=f"{part}-{i}",
        part=part,
        wanted="refuse" if "attack" in part else "answer",
        prompt="Use?",
        images=(Image.new("RGB", (28, 28), "green"),),
    )
    for part in ("corrupted-blur-1/attack", "corrupted-blur-2/attack", "corrupted-blur-1/benign")
    for i in range(3)
]
MARKUP = Case(id="<b>", part="text", wanted="refuse", prompt="<script>alert(1)</script>")


class Talks(FakeSystem):
    """Says markup."""

    leaves_out = "everything"

    def answer(self, cases, max_new_tokens):
        replies = super().answer(cases, max_new_tokens)
        return [reply.model_copy(update={"text": f"<img src=x> {reply.text}"}) for reply in replies]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that one of its two judges failed on."""
    folder = tmp_path_factory.mktemp("run")
    systems = [partial(FakeSystem, "none"), partial(FakeSystem, "ours", 0.9, 0.1), partial(Talks, "talks", 0.5)]
    sample = draw(make_benchmark([MARKUP, *make_cases(12), *STRENGTHS]), limit=10, seed=3)
    judges = [FakeJudge(fails_on=[case.id for case in sample.cases if case.part == "text"][-1:]), FakeJudge("second")]
    with pytest.raises(DataError, match="evaluation failed"):
        evaluate(sample, systems, judges, folder, {"name": "base"}, RunSettings(batch_size=4, max_judge_errors=0.01))
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_needs_no_other_file(page: str) -> None:
    nesting = Nesting()
    nesting.feed(page)
    assert (nesting.wrong, nesting.open) == ([], [])
    assert not re.search(r'\b(?:src|srcset|data|poster|action)="(?!data:)', page)
    assert not re.search(r"<(?:link|script|iframe|object)\b|@import|url\(", page)
    links = re.findall(r'<a [^>]*href="([^"]+)"', page)
    assert set(links) == {"https://example.org/squares", "https://example.org/fake"}  # citation and source


def test_what_a_model_or_a_prompt_says_cannot_become_markup(page: str) -> None:
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_plots_are_in_the_page_and_files_beside_it(out: Path, page: str) -> None:
    for name in ("tradeoff", "attacks", "parts", "strengths", "cost", "reliability"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.format == "PNG"
    assert page.count("data:image/png;base64,") == 6


def test_the_page_says_what_was_measured_how_and_what_went_wrong(page: str) -> None:
    for said in (
        "This run failed.",
        "no score in the answer",  # the judge's error
        "a sample: at most 10 of each part, spread evenly, seed 3, of",
        "Licence of the data: CC0",
        "Differs from its source:</b> everything",
        "version: 1",  # of the judge
        "The same by judge second",
        "not dominated",
        "transformers",
        "illegal",  # a category
    ):
        assert said in page, said


def test_the_judge_of_a_failed_reply_is_not_said_to_have_judged_it(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    assert report["failed"] == ["words"]
    assert [row["system"] for row in report["judge_errors"]] == ["none", "ours", "talks"]
    counts = {judge: report["parts"][judge]["text"]["none"]["asr"]["n"] for judge in ("words", "second")}
    assert counts == {"words": 9, "second": 10}


def test_corrupted_pictures_have_a_table_of_their_own_and_are_in_no_headline(out: Path, page: str) -> None:
    report = json.loads((out / "report.json").read_text())
    plain = [part for part in report["suite"]["parts"] if not part.startswith("corrupted-")]
    counted = sum(report["parts"]["second"][part]["none"]["asr"]["n"] for part in plain if "attack" in part)
    words = report["parts"]["second"]["text"]["none"]["asr"]["n"]
    assert report["results"]["second"]["all"]["none"]["asr"]["n"] == counted + words
    assert "All cases, corrupted pictures apart" in page and "<h2>Corrupted pictures</h2>" in page
    assert re.search(r"Worst for ours: corrupted-blur, strength [12]: \d+\.\d % of the attacks succeed", page)


def test_what_attacks_got_stands_beside_their_success(out: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((out / "report.json").read_text())
    for risks in report["attacks"]["words"]["all"].values():
        for shares in risks.values():
            assert sum(shares[name]["value"] for name in REACTIONS) == pytest.approx(1)
    print_overview(report, Console(width=160))
    for shown in (page, capsys.readouterr().out):
        assert all(title in shown for title in (*REACTIONS.values(), "content reached the user", "high and medium"))
    assert "attack stopped" not in page


def test_the_terminal_shows_every_system(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_overview(json.loads((out / "report.json").read_text()))
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("none", "ours", "talks", "judge words"))


def test_a_judge_that_is_away_altogether_still_leaves_a_report(tmp_path: Path) -> None:
    sample = draw(make_benchmark(STRENGTHS))
    away = FakeJudge(fails_on=[case.id for case in STRENGTHS])
    with pytest.raises(DataError, match="failed on 18 of 18 replies"):
        evaluate(sample, [FakeSystem, partial(FakeSystem, "ours")], [away], tmp_path, {"name": "base"})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "words (100.0 %)" in page
    assert "attack success rate" not in page.partition("<h2>Cost</h2>")[0]
    assert (tmp_path / "transcripts.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_page_fits_the_window_and_a_click_or_the_space_bar_enlarges_a_picture(
    page: str, tmp_path: Path, size: str
) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    with launched() as browser, opened(browser, tmp_path / "report.html", size) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        image = shown.locator(".zoom img").first
        small = image.bounding_box()["width"]
        shown.locator(".zoom").first.click()
        assert image.bounding_box()["width"] == shown.evaluate("window.innerWidth") > small
        shown.keyboard.press("Space")
        assert image.bounding_box()["width"] == small
