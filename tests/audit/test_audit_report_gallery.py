"""The report's gallery in a browser, at desktop and phone width: nothing is shown that nobody asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_samples import verdict, write_audit
from browser import SIZES, launched, opened

from safety_modules.audit.report import write_report

pytest.importorskip("pyarrow")

pytestmark = pytest.mark.slow
NAMELESS = """() => {
  const labels = (one) => [...(one.labels || [])].map((label) => label.textContent).join("");
  const name = (one) => one.getAttribute("aria-label") || one.textContent.trim() || labels(one).trim();
  const all = [...document.querySelectorAll("button, input, select")];
  return all.filter((one) => !name(one)).map((one) => one.outerHTML);
}"""
# The ratio of WCAG 2.2, between the words of an element and what is behind them.
CONTRAST = """(element) => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const clear = (one) => (parse(getComputedStyle(one).backgroundColor)[3] ?? 1) === 0;
  let ground = element;
  while (clear(ground)) ground = ground.parentElement;
  const colours = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
  const [low, high] = colours.map((colour) => light(parse(colour))).sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""
# How many different opacities the overlay has.
PAINTED = """async (card) => {
  await card.querySelector("img").decode();
  const canvas = card.querySelector("canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(pixels.filter((_, k) => k % 4 === 3)).size;
}"""
HOSTILE = "</script><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">\u2028{{ 1 }}"
TYPES = ["illegal"] * 40 + ["privacy"] * 15 + ["insults"] * 5


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 flagged rows by falling risk: two near-duplicates of the first, labels, a hostile one, a long answer."""
    judged = []
    for row, type in enumerate(TYPES):
        known: dict[str, Any] = {"type": type, "risk": round(0.99 - row / 200, 4), "level": ("low", "high")[row % 2]}
        known["label"] = "clean" if row % 10 == 0 else type
        judged.append(verdict(row, f"pictures/number-{row:03}.jpg", **known))
    for row in (4, 44):
        judged[row]["phash"] = judged[0]["phash"]
    judged[1] |= {"question": HOSTILE, "source": HOSTILE, "answer": "word " * 200, "rule": HOSTILE}
    return write_report(write_audit(tmp_path_factory.mktemp("audit"), judged))


@pytest.fixture(params=list(SIZES))
def page(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(browser, report, request.param) as found:
        yield found


def shown(page: Any) -> list[str]:
    return [text.split(",")[0] for text in page.locator(".card h3 .chip").all_inner_texts()]


def found(page: Any) -> str:
    return str(page.locator("#found").inner_text())


def blurred(page: Any, card: int) -> bool:
    filter = page.locator(".card").nth(card).locator("img").evaluate("image => getComputedStyle(image).filter")
    assert ("blur" in filter) == (page.locator(".picture").nth(card).get_attribute("aria-pressed") == "false")
    return "blur" in filter


def test_every_picture_is_blurred_until_it_is_revealed(page: Any) -> None:
    assert page.locator(".card").count() == 24
    assert all(blurred(page, card) for card in range(24))
    page.locator(".picture").nth(2).click()
    assert not blurred(page, 2) and blurred(page, 1)
    page.locator(".picture").nth(2).click()  # the second click enlarges it
    assert page.locator("dialog.enlarged img").evaluate("image => image.getBoundingClientRect().width") > 300
    page.keyboard.press("Escape")
    assert page.locator("dialog").count() == 0 and not blurred(page, 2)
    page.keyboard.press("v")
    assert blurred(page, 2)


def test_keys_work_without_a_focus(page: Any) -> None:
    page.keyboard.press("v")
    assert not blurred(page, 0) and blurred(page, 1)
    page.keyboard.press("j")
    page.keyboard.press("v")
    assert not blurred(page, 1)
    page.locator("body").click(position={"x": 2, "y": 2})  # the focus is lost, the place is not
    page.keyboard.press("r")
    assert page.locator(".card").nth(1).get_attribute("data-mark") == "reject"


def test_export_without_marks_says_so(page: Any) -> None:
    page.locator("#export").click()
    assert page.locator("#said").inner_text() == "Nothing to export: no picture is marked yet."


def test_pictures_can_be_revealed_by_key(page: Any) -> None:
    page.locator(".picture").nth(0).focus()
    page.keyboard.press("Enter")
    assert not blurred(page, 0)
    page.keyboard.press("j")
    page.keyboard.press("v")
    assert not blurred(page, 1) and blurred(page, 2)


def test_the_switch_reveals_this_page_and_no_other(page: Any) -> None:
    page.locator("#reveal").check()
    assert not any(blurred(page, card) for card in range(24))
    page.locator("#next").click()
    assert not page.locator("#reveal").is_checked()
    assert all(blurred(page, card) for card in range(page.locator(".card").count()))


def test_pages_turn_by_button_number_and_key(page: Any) -> None:
    first = page.locator(".card").first.get_attribute("data-i")
    assert page.locator("#pages").inner_text() == "of 3" and page.locator("#previous").is_disabled()
    page.locator("#next").click()
    assert page.locator("#page").input_value() == "2" and page.locator(".card").first.get_attribute("data-i") != first
    page.locator("#page").fill("3")
    page.locator("#page").press("Enter")
    assert page.locator("#next").is_disabled()
    page.locator(".picture").first.focus()
    page.keyboard.press("p")
    page.keyboard.press("p")  # the focus went along
    assert page.locator("#page").input_value() == "1"


def test_types_have_galleries_ranked_by_risk(page: Any) -> None:
    page.locator(".types label", has_text="privacy").click()
    assert shown(page) == ["privacy"] * 15 and found(page) == "15 of 60"
    risks = [float(text.split()[1]) for text in page.locator(".card h3 .number").all_inner_texts()]
    assert risks == sorted(risks, reverse=True)


def test_filters_narrow_the_list_together(page: Any) -> None:
    page.locator("#level").select_option("high")
    assert found(page).startswith("30 of 60")
    page.locator("#score").fill("2.2")
    assert found(page).startswith("9 of 60")
    page.locator("#level").select_option("")
    page.locator("#score").fill(page.locator("#score").get_attribute("min"))
    page.locator("#disagree").check()
    assert found(page).startswith("6 of 60")
    page.locator(".types label", has_text="insults").click()
    assert "Nothing here" in page.locator("#cards").inner_text()


def test_search_finds_sources_and_questions(page: Any) -> None:
    page.locator("#search").fill("NUMBER-033")
    assert found(page) == "1 of 60"
    page.locator("#search").fill("shown in number 7?")
    assert found(page) == "1 of 60" and "number-007" in page.locator(".card").inner_text()
    page.locator("#search").fill("</SCRIPT>")
    assert found(page) == "1 of 60"


def test_near_duplicates_are_folded_and_unfold(page: Any) -> None:
    assert found(page) == "60 of 60, 2 folded as near-duplicates"
    assert page.locator(".fold").count() == 1
    page.locator(".picture").first.click()
    page.locator("[data-act=unfold]").click()
    assert page.locator(".members .card").count() == 2
    assert page.locator("[data-act=unfold]").get_attribute("aria-expanded") == "true"
    assert not blurred(page, 0) and blurred(page, 1)
    page.locator("[data-act=unfold]").click()
    assert page.locator(".members").count() == 0
    page.locator(".types label", has_text="privacy").click()
    assert found(page) == "15 of 60"


def test_attention_lies_over_the_picture_when_asked(page: Any) -> None:
    heat = page.locator(".card canvas").first
    assert not heat.is_visible()
    page.locator("#attention").check()
    assert heat.is_visible()
    assert page.locator(".card").first.evaluate(PAINTED) > 10
    picture, over = page.locator(".card img").first.bounding_box(), heat.bounding_box()
    assert over["width"] >= picture["width"] and over["height"] >= picture["height"]


def test_the_conversation_is_beside_the_picture(page: Any) -> None:
    card = page.locator(".card").nth(1)
    assert "word word" in card.locator(".talk").inner_text()
    assert card.locator(".talk dd").nth(1).get_attribute("tabindex") == "0"
    picture, talk = card.locator(".picture").bounding_box(), card.locator(".talk").bounding_box()
    assert talk["x"] > picture["x"] + picture["width"] or talk["y"] > picture["y"] + picture["height"]


def test_words_of_the_data_stay_words(page: Any) -> None:
    card = page.locator(".card").nth(1)
    assert HOSTILE in card.evaluate("card => card.querySelector('.talk').textContent")
    assert card.locator(".where").evaluate("where => where.textContent") == HOSTILE
    assert page.title() != "ran" and page.locator(".card script, .card img[src=x]").count() == 0


def test_nothing_is_wider_than_the_screen(page: Any) -> None:
    page.locator("details.panel summary").click()
    page.locator("[data-act=unfold]").click()
    page.locator(".card .chances summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_every_control_has_a_name(page: Any) -> None:
    page.locator("details.panel summary").click()
    page.locator(".confirm").first.click()
    assert page.evaluate(NAMELESS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(browser: Any, report: Path, scheme: str) -> None:
    with opened(browser, report, color_scheme=scheme) as page:
        page.locator(".confirm").nth(0).click()
        page.locator(".reject").nth(1).click()
        places = [
            ".soft",
            ".chip",
            ".label.differs",
            ".talk dt",
            ".confirm[aria-pressed=true]",
            ".reject[aria-pressed=true]",
        ]
        for place in [*places, ".types input:checked + span", "#export", ".where", "thead th", ".types span small"]:
            assert page.locator(place).first.evaluate(CONTRAST) >= 4.5, place
