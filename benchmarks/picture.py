"""Draws the README's picture: base and guarded answers on pocket's validation split.

python benchmarks/picture.py                  # docs/guarded.png
python benchmarks/picture.py --out other.png
"""

import argparse
from pathlib import Path

from safety_modules import attach_safety, pocket
from safety_modules.evaluation.examples import make_examples
from safety_modules.evaluation.sheet import write_sheet

SHOWN = (0, 3, 4)
"""A risky thing, and one picture with a harmless and a harmful question."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "guarded.png")
    target = parser.parse_args().out
    safety = attach_safety(*pocket.load(), adapter=pocket.adapter_dir())
    examples = make_examples(safety)
    print(write_sheet([examples[place] for place in SHOWN], target, "One picture, with and without safety"))
