"""A report of 10,000 pictures opens, turns pages and searches quickly. `pytest -s` prints what was measured."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_samples import thumbnail, verdict, write_audit
from browser import launched, opened
from PIL import Image

from safety_modules.audit.report import write_report
from safety_modules.taxonomy import DEFAULT_TAXONOMY

pytest.importorskip("pyarrow")

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow
ROWS = 10_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thumbnails of about 6 kB each, as photos have."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(100):
        blocks = Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        pictures.append(thumbnail(blocks.resize((192, 192), Image.Resampling.BICUBIC)))
    judged = []
    for row in range(ROWS):
        known = {"type": DEFAULT_TAXONOMY.types[row % 6], "thumbnail": pictures[row % 100], "answer": "an answer " * 30}
        judged.append(verdict(row, f"shards/train-{row // 1000:05}.tar:{row:09}", **known))
    out = write_audit(tmp_path_factory.mktemp("audit"), judged)
    began = time.perf_counter()
    path = write_report(out)
    kilobytes = len(pictures[0]) / 1000
    print(f"\nwritten in {time.perf_counter() - began:.1f} s: {path.stat().st_size / 1e6:.0f} MB, ", end="")
    print(f"{ROWS} thumbnails of {kilobytes:.1f} kB")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


def timed(what: str, act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    seconds = time.perf_counter() - began
    print(f"{what}: {1000 * seconds:.0f} ms")
    return seconds


def renderer_megabytes() -> float:
    """Of the largest process of the browser below this one."""
    below = psutil.Process().children(recursive=True)
    pages = [one for one in below if "--type=renderer" in one.cmdline()]
    return max(one.memory_full_info().uss for one in pages) / 1e6


def test_ten_thousand_pictures_are_usable(browser: Any, report: Path) -> None:
    began = time.perf_counter()
    with opened(browser, report, wait_until="commit") as page:
        page.wait_for_selector(".card")
        print(f"first pictures after {time.perf_counter() - began:.1f} s")
        page.wait_for_load_state()
        opening = time.perf_counter() - began
        print(f"read to its end after {opening:.1f} s, {renderer_megabytes():.0f} MB")
        card = page.locator(".card").first

        def turn() -> None:
            before = card.get_attribute("data-i")
            page.locator("#next").click()
            assert card.get_attribute("data-i") != before

        def search() -> None:
            page.locator("#search").fill("tar:000000042")
            assert page.locator("#found").inner_text().startswith("1 of 10000")

        turns = [timed("page turned", turn) for _ in range(10)]
        searched = timed("searched", search)
        page.locator("#search").fill("")
        typed = timed("type chosen", lambda: page.locator(".types label", has_text="privacy").click())
        marked = timed("marked", lambda: page.locator("button.confirm").first.click())
        assert page.locator(".card").count() == 24 and page.evaluate("document.images.length") == 24
        megabytes = renderer_megabytes()
        print(f"afterwards {megabytes:.0f} MB")
    assert opening < 60 and max(*turns, searched, typed, marked) < 5  # a busy machine, far above an idle one
    assert megabytes < 1000
