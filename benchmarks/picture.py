"""Draws docs/guarded.png, the README's picture: base and guarded answers on pocket's validation split."""

from pathlib import Path

from safety_modules import attach_safety, pocket
from safety_modules.evaluation.examples import make_examples
from safety_modules.evaluation.sheet import write_sheet

SHOWN = (0, 3, 4)
"""A risky thing, and one picture with a harmless and a harmful question."""

if __name__ == "__main__":
    safety = attach_safety(*pocket.load(), adapter=pocket.adapter_dir())
    examples = make_examples(safety)
    target = Path(__file__).parent.parent / "docs" / "guarded.png"
    print(write_sheet([examples[place] for place in SHOWN], target, "One picture, with and without safety"))
