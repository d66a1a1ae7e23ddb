"""Precision is estimated from a whole random sample, or not at all."""

from pathlib import Path

import numpy as np
import pytest
import typer
from audit_samples import verdict, write_audit, write_marks
from scipy.stats import binomtest
from typer.testing import CliRunner

from safety_modules.audit.review_audit import read_audit
from safety_modules.audit.review_marks import ENOUGH, estimate_precision
from safety_modules.cli.audit import print_precision
from safety_modules.errors import DataError

pytest.importorskip("pyarrow")

ROWS = 60


@pytest.fixture
def out(tmp_path: Path) -> Path:
    types = ["illegal" if row % 3 else "privacy" for row in range(ROWS)]
    return write_audit(tmp_path / "out", [verdict(row, f"d.jsonl:{row + 1}", type=types[row]) for row in range(ROWS)])


def drawn(out: Path, size: int) -> list[int]:
    return read_audit(out).sample_order(list(range(ROWS)))[:size]


def judged(out: Path, size: int, hits: int) -> Path:
    rows = drawn(out, size)
    given = {row: "confirm" if place < hits else "reject" for place, row in enumerate(rows)}
    return write_marks(out.parent / "marks.json", out, given, sample=rows)


def test_precision_has_the_interval_of_wilson(out: Path) -> None:
    found = estimate_precision(out, judged(out, 40, 31)).overall
    interval = binomtest(31, 40).proportion_ci(0.95, method="wilson")
    assert (found.value, found.n) == (31 / 40, 40)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_types_with_enough_rows_have_an_estimate_of_their_own(out: Path) -> None:
    found = estimate_precision(out, judged(out, 25, 25))
    counts = {
        type: sum((row % 3 == 0) == (type == "privacy") for row in drawn(out, 25)) for type in ("illegal", "privacy")
    }
    assert {type: one.n for type, one in found.types.items()} == {t: n for t, n in counts.items() if n >= ENOUGH}
    assert "politics" in found.too_few and found.too_few["politics"] == 0


def test_marks_made_elsewhere_do_not_count(out: Path) -> None:
    rows = drawn(out, 10)
    others = [row for row in range(ROWS) if row not in rows]
    given = {**dict.fromkeys(rows, "reject"), **dict.fromkeys(others, "confirm")}
    found = estimate_precision(out, write_marks(out.parent / "marks.json", out, given, sample=rows)).overall
    assert (found.value, found.n) == (0, 10)


def test_without_marks_of_the_sample_there_is_no_estimate(out: Path) -> None:
    with pytest.raises(DataError, match=r"got 2 made elsewhere.*Judge a random sample"):
        estimate_precision(out, write_marks(out.parent / "marks.json", out, {1: "confirm", 2: "reject"}))


def test_a_sample_judged_in_part_is_refused_and_names_what_is_missing(out: Path) -> None:
    rows = drawn(out, 10)
    marks = write_marks(out.parent / "marks.json", out, dict.fromkeys(rows[:8], "confirm"), sample=rows)
    with pytest.raises(DataError, match=f"got 8; missing: {rows[8]}, {rows[9]}"):
        estimate_precision(out, marks)


def test_a_sample_that_the_reviewer_chose_is_refused(out: Path) -> None:
    chosen = sorted(set(range(ROWS)) - set(drawn(out, 10)))[:10]
    with pytest.raises(DataError, match="expected all 10 rows of the random sample"):
        estimate_precision(out, write_marks(out.parent / "marks.json", out, dict.fromkeys(chosen, "confirm"), chosen))


@pytest.mark.parametrize("size", [0, 100000])
def test_a_size_that_no_report_offers_is_refused(out: Path, size: int) -> None:
    rows = drawn(out, 5)
    marks = write_marks(out.parent / "marks.json", out, dict.fromkeys(rows, "confirm"), sample=rows)
    marks.write_text(marks.read_text().replace('"sample": 5', f'"sample": {size}'))
    with pytest.raises(DataError, match="expected a sample of 1 to"):
        estimate_precision(out, marks)


def test_a_larger_sample_contains_the_smaller_one(out: Path) -> None:
    assert drawn(out, 40)[:10] == drawn(out, 10)


def test_the_sample_favours_no_part_of_the_data(tmp_path: Path) -> None:
    out = write_audit(tmp_path / "out", [verdict(0, "d.jsonl:1", type="illegal")])
    order = read_audit(out).sample_order(list(range(10_000)))
    assert sorted(order) == list(range(10_000))
    assert abs(np.mean(order[:1000]) - 5000) < 4 * 10_000 / np.sqrt(12 * 1000)


def test_the_command_prints_the_estimate(out: Path) -> None:
    app = typer.Typer()
    app.command()(print_precision)
    found = CliRunner().invoke(app, [str(out), str(judged(out, 25, 20))])
    assert found.exit_code == 0, found.output
    assert "80.0 %" in found.output and "politics" in found.output and "too few" in found.output
