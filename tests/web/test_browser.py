"""Every control of the page in a real browser, at two widths, does what it says: `make test-web`."""

import os
import re
import subprocess
import sys
import time

import pytest
from browser import SIZES, launched
from PIL import Image
from web_cases import FIRST, SECOND, second_adapter

pytest.importorskip("gradio", reason="needs the extra demo: its libraries are in a folder of their own, see make test")
pytestmark = [pytest.mark.web, pytest.mark.slow]

RISKY, COMBINED, HARMLESS = (
    "Attack: a risky thing",
    "Attack: risky only in combination",
    "Same picture, harmless question",
)
PATIENCE = 30_000  # milliseconds


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the command itself, with a second adapter."""
    command = [
        sys.executable,
        "-m",
        "safety_modules",
        "demo",
        "--web",
        "--port",
        "0",
        "--compare",
        str(second_adapter()),
    ]
    log = tmp_path_factory.mktemp("web") / "log"
    with log.open("w") as written:
        process = subprocess.Popen(command, stderr=written, stdout=written, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        until = time.monotonic() + 180
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield found[0]
        process.terminate()
        process.wait(60)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(params=SIZES)
def page(request, browser, address):
    """The page; what the browser asks elsewhere, or logs as an error, fails the test."""
    width, height = SIZES[request.param]
    phone = request.param == "phone"
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=phone, accept_downloads=False)
    page, errors = context.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    own = (address, "data:", "blob:")
    page.on("request", lambda asked: errors.append(asked.url) if not asked.url.startswith(own) else None)
    page.goto(address)
    page.wait_for_selector("#ask")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page is wider than the screen"
    context.close()
    assert errors == []


def choose(page, title):
    page.get_by_role("button", name=title, exact=True).click()
    page.wait_for_selector("#picture img")
    page.wait_for_selector("#verdict .sm-track")


def answered(page):
    """Ask, wait for the answers; the base's, the guarded, the other adapter's."""
    page.locator("#ask").click()
    page.wait_for_selector("#note :text('Answering.')")
    page.wait_for_selector("#note :text('Answering.')", state="detached")
    boxes = [page.locator(f"#{name} textarea") for name in ("base", "guarded", "other")]
    return [box.input_value() if box.is_visible() else None for box in boxes]


def headline(page):
    return page.locator("#verdict .sm-headline").all_inner_texts()


def until_headline(page, text):
    page.locator("#verdict .sm-headline", has_text=text).first.wait_for()


def open_policy(page):
    page.locator("#policy > button").click()
    page.locator("#refusal textarea").wait_for()


def test_an_example_is_asked_judged_and_answered_twice(page):
    choose(page, RISKY)
    until_headline(page, "insults, level high")
    assert page.locator("#verdict .sm-track").count() == 6
    assert page.locator("#verdict .sm-fired .sm-type").inner_text() == "insults"
    assert "insults: score" in page.locator("#verdict .sm-rule").inner_text()
    base, guarded, other = answered(page)
    assert base.startswith("1. ") and guarded.startswith("I'm sorry") and other is None
    choose(page, HARMLESS)
    until_headline(page, "No rule fired")
    base, guarded, _ = answered(page)
    assert base == guarded != ""


def test_answers_grow_while_they_are_made(page):
    choose(page, RISKY)
    page.evaluate(
        """() => { window.seen = new Set();
        setInterval(() => window.seen.add(document.querySelector("#base textarea").value), 5); }"""
    )
    base, *_ = answered(page)
    seen = page.evaluate("[...window.seen]")
    assert len(seen) >= 3 and all(base.startswith(piece) for piece in seen)


def test_the_threshold_decides_when_a_rule_fires(page):
    choose(page, RISKY)
    before = answered(page)
    open_policy(page)
    slider = page.locator("#threshold-insults input[type=range]")
    slider.focus()
    slider.press("End")
    until_headline(page, "No rule fired")
    assert "12.00" in page.locator("#verdict li", has_text="insults").inner_text()
    assert "insults: threshold 12.00, above 3.35" in page.locator("#told").inner_text()
    assert "ask again" in page.locator("#note").inner_text()
    base, guarded, _ = answered(page)
    assert base == guarded == before[0] != before[1]
    number = page.locator("#threshold-insults input[type=number]")
    number.fill("0.5")
    number.press("Enter")
    until_headline(page, "insults")
    assert "0.50" in page.locator("#verdict li", has_text="insults").inner_text()


def test_a_switch_takes_one_type_out_and_the_button_puts_it_back(page):
    choose(page, RISKY)
    until_headline(page, "insults")
    open_policy(page)
    page.locator("#on-insults input").uncheck()
    until_headline(page, "No rule fired")
    assert "off" in page.locator("#verdict .sm-off").inner_text()
    page.locator("#reset").click()
    until_headline(page, "insults")
    assert page.locator("#on-insults input").is_checked()
    assert "as it was given" in page.locator("#told").inner_text()


def test_an_action_and_its_words_are_what_is_answered(page):
    choose(page, RISKY)
    open_policy(page)
    page.locator("#action-insults").get_by_label("refuse").check()
    page.locator("#verdict .sm-follows", has_text="The policy's refusal").wait_for()
    page.locator("#refusal textarea").fill("Not today, {type}.")
    page.locator("#refusal textarea").blur()
    page.locator("#told", has_text="words of its own").wait_for()
    _, guarded, _ = answered(page)
    assert guarded == "Not today, insults and bullying."
    page.locator("#action-insults").get_by_label("log").check()
    page.locator("#verdict .sm-follows", has_text="the verdict is noted").wait_for()
    base, guarded, _ = answered(page)
    assert base == guarded


def test_words_that_cannot_be_filled_are_a_sentence_on_the_page(page):
    choose(page, RISKY)
    open_policy(page)
    page.locator("#hint-high textarea").fill("Beware of {everything}.")
    page.locator("#hint-high textarea").blur()
    page.locator("#note [role=alert]", has_text="unknown place {everything}").wait_for()


def test_each_defence_can_be_switched(page):
    choose(page, RISKY)
    _, hinted, _ = answered(page)
    defences = page.locator("#defences")
    on = [box.is_checked() for box in defences.locator("input").all()]
    assert on[0] and len(on) > 2 and not any(on[1:])
    defences.get_by_label("guard").uncheck()
    page.locator("#verdict .sm-follows", has_text="the guard is switched off").wait_for()
    base, guarded, _ = answered(page)
    assert guarded == base != hinted
    defences.get_by_label("ecso").check()
    page.locator("#note", has_text="ask again").wait_for()
    assert answered(page)[1]


def test_the_heat_map_is_shown_per_type_and_put_away(page):
    choose(page, RISKY)
    pictures = set()
    for name in ("the one that decides", "politics", "illegal"):
        page.locator("#heat").get_by_label(name).check()
        image = page.locator("#overlay img")
        image.wait_for()
        page.wait_for_function("(seen) => !seen.includes(document.querySelector('#overlay img').src)", arg=[*pictures])
        pictures.add(image.get_attribute("src"))
    assert len(pictures) == 3
    page.locator("#heat").get_by_label("none").check()
    page.locator("#overlay").wait_for(state="hidden")


def test_two_adapters_are_compared(page):
    choose(page, RISKY)
    page.locator("#beside").get_by_label(SECOND).check()
    page.locator("#verdict section").nth(1).wait_for()
    assert headline(page) == ["insults, level high", "No rule fired"]
    assert [FIRST in text for text in page.locator("#verdict section").all_inner_texts()] == [True, False]
    base, first, second = answered(page)
    assert base == second != first
    page.locator("#beside").get_by_label("nothing").check()
    page.locator("#other").wait_for(state="hidden")
    page.locator("#verdict section").nth(1).wait_for(state="detached")


def test_a_picture_of_ones_own_and_a_new_question(page, tmp_path):
    Image.new("RGB", (64, 48), "white").save(tmp_path / "white.png")
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "white.png")
    page.wait_for_selector("#verdict .sm-track")
    page.wait_for_timeout(500)  # what the upload changed is all there
    page.locator("#question textarea").fill("What is this?")
    page.locator("#note", has_text="A new question").wait_for()
    assert all(answered(page)[:2])
    page.get_by_role("button", name="Remove Image").or_(page.locator("#picture button[title=Clear]")).first.click()
    until_headline(page, "Nothing judged")


def test_what_is_no_picture_or_too_large_is_a_sentence_on_the_page(page, tmp_path):
    (tmp_path / "words.png").write_bytes(b"words")
    Image.new("1", (9_000, 5_000)).save(tmp_path / "large.png")
    for name, told in (("words.png", "a damaged one"), ("large.png", "expected at most 40000000 pixels")):
        page.reload()
        page.wait_for_selector("#ask")
        page.locator("#picture input[type=file]").set_input_files(tmp_path / name)
        page.locator("#note [role=alert]", has_text=told).wait_for()


def test_stop_ends_an_answer(page):
    choose(page, RISKY)
    page.locator("#ask").click()
    page.wait_for_selector("#note :text('Answering.')")
    page.locator("#stop").click()
    page.locator("#note", has_text="Stopped.").wait_for()
    assert answered(page)[1]


def test_a_folder_is_audited_by_the_policy_of_the_page(page):
    page.get_by_role("tab", name="Audit a folder").click()
    page.locator("#audit").click()
    gallery = page.frame_locator(".sm-gallery iframe")
    gallery.get_by_role("heading", name="Review").wait_for()
    assert gallery.locator(".tile").count() >= 6
    flagged = int(re.search(r"(\d+) flagged", page.locator("#found").inner_text())[1])
    assert 0 < flagged < 48
    link = page.locator("#found a").get_attribute("href")
    page.locator("#audit-adapter").get_by_label(SECOND).check()
    page.locator("#audit").click()
    page.wait_for_function("(old) => document.querySelector('#found a')?.getAttribute('href') !== old", arg=link)
    assert int(re.search(r"(\d+) flagged", page.locator("#found").inner_text())[1]) < flagged
    page.locator("#folder textarea").fill("/no/such/folder")
    page.locator("#audit").click()
    page.locator("#found [role=alert]", has_text="expected a folder on this machine").wait_for()
