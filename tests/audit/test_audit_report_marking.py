"""Marking in the report, in a browser: marks are kept, leave as marks.json, and come back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_samples import verdict, write_audit
from browser import SIZES, launched, opened

from safety_modules.audit.report import write_report
from safety_modules.audit.review_audit import read_audit
from safety_modules.audit.review_marks import Marks, estimate_precision, read_flagged, read_marks

pytest.importorskip("pyarrow")

pytestmark = pytest.mark.slow
SAME = "ab" * 32


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 flagged rows by falling risk; 5 and 30 show one picture, 0, 6 and 7 look alike, 4 has the level safe."""
    judged = [verdict(row, f"d.jsonl:{row}", type="illegal", risk=round(0.99 - row / 100, 4)) for row in range(40)]
    for row in (5, 30):
        judged[row]["image_digest"] = SAME
    judged[4]["level"] = "safe"
    for row in (6, 7):
        judged[row]["phash"] = judged[0]["phash"]
    out = write_audit(tmp_path_factory.mktemp("audit"), judged)
    write_report(out)
    return out


@pytest.fixture(params=list(SIZES))
def page(browser: Any, out: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(browser, out / "report.html", request.param, accept_downloads=True) as found:
        yield found


def card(page: Any, row: int) -> Any:
    return page.locator(f'.card[data-i="{row}"]')


def mark(page: Any, row: int) -> str | None:
    return card(page, row).get_attribute("data-mark") or None


def marked(page: Any) -> str:
    return str(page.locator("#marked").inner_text())


def exported(page: Any, out: Path) -> Marks:
    """What the report exports, read as the commands read it."""
    with page.expect_download() as download:
        page.locator("#export").click()
    assert download.value.suggested_filename == "marks.json"
    audit = read_audit(out)
    return read_marks(Path(download.value.path()), audit, read_flagged(audit))


def test_marks_are_set_changed_and_taken_back(page: Any) -> None:
    card(page, 1).locator("button.confirm").click()
    assert (mark(page, 1), marked(page)) == ("confirm", "1 confirmed, 0 rejected, 39 unmarked")
    assert page.locator("#said").inner_text() == "Row 1 confirmed."
    card(page, 1).locator("button.reject").click()
    assert (mark(page, 1), marked(page)) == ("reject", "0 confirmed, 1 rejected, 39 unmarked")
    assert card(page, 1).locator("button.reject").get_attribute("aria-pressed") == "true"
    card(page, 1).locator("button.reject").click()
    assert (mark(page, 1), marked(page)) == (None, "0 confirmed, 0 rejected, 40 unmarked")


def test_keys_mark_and_move_on(page: Any) -> None:
    card(page, 0).locator(".picture").focus()
    page.keyboard.press("c")
    page.keyboard.press("r")
    assert (mark(page, 0), mark(page, 1), mark(page, 2)) == ("confirm", "reject", None)
    page.locator("#search").press("c")  # in a field a letter is a letter
    assert marked(page) == "1 confirmed, 1 rejected, 38 unmarked"


def test_the_same_picture_in_another_row_is_marked_along(page: Any) -> None:
    card(page, 5).locator("button.confirm").click()
    assert "with 1 other rows of the same picture" in page.locator("#said").inner_text()
    assert marked(page).startswith("2 confirmed")
    page.locator("#next").click()
    assert mark(page, 30) == "confirm"


def test_near_duplicates_are_marked_only_when_asked(page: Any) -> None:
    card(page, 0).locator("button.confirm").click()
    assert marked(page).startswith("1 confirmed")
    card(page, 0).locator("[data-act=reject-all]").click()
    assert marked(page).startswith("0 confirmed, 3 rejected")


def test_marks_outlive_the_page(page: Any) -> None:
    card(page, 2).locator("button.confirm").click()
    page.reload()
    assert mark(page, 2) == "confirm"
    page.locator("#mark").select_option("confirm")
    assert page.locator(".card").count() == 1
    page.locator("#mark").select_option("none")
    assert page.locator("#found").inner_text().startswith("39 of 40")


def test_exported_marks_are_what_the_commands_read(page: Any, out: Path) -> None:
    page.locator("details.panel summary").click()
    page.locator("#reviewer").fill("Ada")
    page.locator("#reviewer").press("Tab")
    card(page, 5).locator("button.confirm").click()
    card(page, 3).locator("button.reject").click()
    found = exported(page, out).marks
    assert [(one.row, one.mark, one.sample, one.reviewer) for one in found] == [
        (3, "reject", False, "Ada"),
        (5, "confirm", False, "Ada"),
        (30, "confirm", False, "Ada"),
    ]


def test_a_confirmed_picture_can_get_another_label(page: Any, out: Path) -> None:
    assert not card(page, 2).locator(".as").is_visible()
    card(page, 2).locator("button.confirm").click()
    card(page, 2).locator("[data-act=type]").select_option("privacy")
    card(page, 2).locator("[data-act=level]").select_option("low")
    page.reload()
    assert card(page, 2).locator("[data-act=type]").input_value() == "privacy"
    (found,) = exported(page, out).marks
    assert (found.type, found.level) == ("privacy", "low")
    card(page, 2).locator("[data-act=type]").select_option("illegal")
    card(page, 2).locator("[data-act=level]").select_option("high")
    assert exported(page, out).marks[0].type is None


def test_a_confirmed_picture_whose_level_is_safe_counts_as_the_lowest_risk(page: Any, out: Path) -> None:
    card(page, 4).locator("button.confirm").click()
    assert card(page, 4).locator("[data-act=level]").input_value() == "low"
    card(page, 4).locator("[data-act=type]").select_option("privacy")
    (found,) = exported(page, out).marks
    assert (found.type, found.level) == ("privacy", "low")


def test_marks_of_a_colleague_are_imported_and_conflicts_keep_ones_own(page: Any, out: Path, tmp_path: Path) -> None:
    for row, name in ((1, "confirm"), (2, "reject"), (3, "confirm")):
        card(page, row).locator(f"button.{name}").click()
    theirs = json.loads(exported(page, out).model_dump_json(exclude_none=True))
    for row, name in ((2, "confirm"), (3, "confirm")):
        card(page, row).locator(f"button.{name}").click()
    assert marked(page) == "2 confirmed, 0 rejected, 38 unmarked"
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    page.locator("#import").set_input_files(tmp_path / "theirs.json")
    page.locator("#said", has_text="imported").wait_for()
    assert page.locator("#said").inner_text() == "1 marks imported. 1 kept as they were here: row 2."
    assert (mark(page, 1), mark(page, 2), mark(page, 3)) == ("confirm", "confirm", "confirm")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"audit": "0" * 64}, "the marks of another audit"),
        ({"version": 2}, "no marks.json of version 1"),
        ({"marks": [{"row": 999, "image_digest": "x", "mark": "confirm"}]}, "a row that this report does not have"),
        (None, "not JSON"),
    ],
)
def test_what_does_not_belong_here_is_not_imported(
    page: Any, out: Path, tmp_path: Path, change: dict[str, Any] | None, words: str
) -> None:
    card(page, 0).locator("button.confirm").click()
    given = json.loads(exported(page, out).model_dump_json()) | (change or {})
    (tmp_path / "other.json").write_text("{" if change is None else json.dumps(given))
    page.locator("#import").set_input_files(tmp_path / "other.json")
    page.locator("#said", has_text=words).wait_for()
    assert marked(page).startswith("1 confirmed, 0 rejected")


def test_a_judged_random_sample_gives_an_estimate(page: Any, out: Path, tmp_path: Path) -> None:
    order = read_audit(out).sample_order(list(range(40)))[:6]
    card(page, 0).locator("button.confirm").click()
    page.locator("details.panel summary").click()
    page.locator("#size").fill("6")
    page.locator("#size").press("Tab")
    page.locator("#sample").click()
    assert [int(one.get_attribute("data-i")) for one in page.locator(".card").all()] == order
    assert page.locator("#search").is_disabled()
    assert not any(mark(page, row) for row in order)  # what was marked elsewhere is judged anew
    for place, row in enumerate(order):
        assert page.locator("#sampled").inner_text() == f"{place} of 6 judged"
        card(page, row).locator("button.confirm" if place < 4 else "button.reject").click()
    assert page.locator("#sampled").inner_text() == "6 of 6 judged"
    (tmp_path / "marks.json").write_text(exported(page, out).model_dump_json())
    found = estimate_precision(out, tmp_path / "marks.json").overall
    assert (found.value, found.n) == (4 / 6, 6)
    page.locator("#sample").click()
    assert page.locator(".card").count() == 24 and not page.locator("#search").is_disabled()


def test_two_tabs_share_their_marks(page: Any) -> None:
    other = page.context.new_page()
    other.goto(page.url)
    card(page, 1).locator("button.confirm").click()
    other.wait_for_selector('.card[data-i="1"][data-mark=confirm]')
    card(other, 2).locator("button.reject").click()
    page.wait_for_selector('.card[data-i="2"][data-mark=reject]')
    assert marked(page) == "1 confirmed, 1 rejected, 38 unmarked"


def test_a_browser_that_keeps_nothing_says_so_and_still_exports(browser: Any, out: Path) -> None:
    broken = (
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    context = browser.new_context(accept_downloads=True)
    context.add_init_script(broken)
    page = context.new_page()
    page.goto((out / "report.html").as_uri())
    assert "export them before you close" in page.locator("#storage").inner_text()
    card(page, 1).locator("button.confirm").click()
    assert mark(page, 1) == "confirm"
    assert [one.row for one in exported(page, out).marks] == [1]
    context.close()
