"""Builds llava-pocket from nothing: drawings, tower, language model, text half. Goes on after an interruption.

    python checkpoints/llava-pocket/build/build.py FOLDER_OF_PACKAGES --out runs/pocket

Under four hours on two idle cores. What lies in FOLDER_OF_PACKAGES says `glyphs.py`; without one, the package's own
drawings are all there is. Writes the checkpoint to `OUT/language/checkpoint`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(script: str, *arguments: str) -> None:
    """One part; a part that is finished ends at once."""
    subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="?", help="where the packages lie as *.tgz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compile", action="store_true", help="see tower.py")
    given = parser.parse_args()
    styles = "build" if given.packages else "seen"
    if given.packages:
        run("glyphs.py", "--build", given.packages)
    tower = given.out / "tower"
    run("tower.py", "--out", str(tower), "--styles", styles, *(["--compile"] if given.compile else []))
    weights = str(tower / "tower.safetensors")
    run("language.py", "--tower", weights, "--out", str(given.out / "language"), "--styles", styles)
    checkpoint = str(given.out / "language" / "checkpoint")
    run("words.py", "--base", checkpoint, "--out", str(given.out / "words"), "--styles", styles, "--place")
