"""Builds llava-pocket from nothing: drawings, tower and language model in two rounds, text half. Goes on after an
interruption.

    python checkpoints/llava-pocket/build/build.py FOLDER_OF_PACKAGES --out runs/pocket

Four and a half hours on two idle cores. What lies in FOLDER_OF_PACKAGES says `glyphs.py`; without one, the
package's own drawings are all there is. The second round of the tower sees more words, which the first reads too
badly. Writes the checkpoint to `OUT/language_2/checkpoint`.
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

    def built(script: str, name: str, *arguments: str) -> Path:
        run(script, "--out", str(given.out / name), "--styles", styles, *arguments)
        return given.out / name

    fast = ["--compile"] if given.compile else []
    tower = str(built("tower.py", "tower", *fast) / "tower.safetensors")
    first = str(built("language.py", "language", "--tower", tower) / "checkpoint")
    more = ["--steps", "10000", "--lr", "1.5e-3", "--texts", "0.6", "--pool", "40000", "--seed", "1", *fast]
    tower = str(built("tower.py", "tower_2", "--start", tower, *more) / "tower.safetensors")
    more = ["--start", first, "--tower", tower, "--steps", "2000", "--lr", "1.2e-3", "--seed", "2"]
    checkpoint = str(built("language.py", "language_2", *more) / "checkpoint")
    built("words.py", "words", "--base", checkpoint, "--place")
