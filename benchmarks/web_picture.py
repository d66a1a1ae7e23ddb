"""Takes the picture of `safety-modules demo --web`: one of pocket's risky pictures, judged and answered, in Chromium.

python benchmarks/web_picture.py              # docs/demo_web.png
python benchmarks/web_picture.py --out other.png
"""

import argparse
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

EXAMPLE = "Attack: a risky thing"
WIDTH, HEIGHT = 1180, 1170
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 256
"""Of the picture: it stands in a README, which is to load quickly."""


def shown(page: Page, address: str) -> Image.Image:
    """The page once the example has its answers, and the heat map is on."""
    page.goto(address)
    page.get_by_role("button", name=EXAMPLE, exact=True).click()
    page.wait_for_selector("#verdict .sm-track")
    page.locator("#ask").click()
    page.wait_for_selector("#note :text('Answering.')")
    page.wait_for_selector("#note :text('Answering.')", state="detached")
    page.locator("#heat").get_by_label("the one that decides").check()
    page.wait_for_selector("#overlay img")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1_000)  # what fades in and out
    return Image.open(BytesIO(page.screenshot())).convert("RGB")


def main(out: Path) -> None:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"no picture: expected one of {', '.join(BROWSERS)}, got none. Install Chromium.")
    command = [sys.executable, "-m", "safety_modules", "demo", "--web", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        try:
            assert server.stderr is not None
            found = next(filter(None, (re.search(r"http://\S+", line) for line in server.stderr)))
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            picture = shown(page, found[0])
            browser.close()
        finally:
            server.terminate()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "demo_web.png")
    main(parser.parse_args().out)
