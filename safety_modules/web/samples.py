"""Pocket's drawn pictures as files, for a page that stands on its own: examples to choose, and a folder to audit."""

from pathlib import Path

from safety_modules.evaluation.examples import example_records
from safety_modules.pocket import splits
from safety_modules.web.page import Example

DRAWN = 48
"""Pictures in the folder, half of them risky."""


def write_examples(place: Path) -> list[Example]:
    """One question about a picture of each kind, the first that fits; not selected by how they are answered."""
    place.mkdir(parents=True)
    found = []
    for number, (title, record) in enumerate(example_records().items()):
        path = place / f"{number}.png"
        record.load_image().save(path)
        found.append(Example(title, path, record.question))
    return found


def write_folder(place: Path) -> Path:
    """A folder of pictures."""
    place.mkdir(parents=True)
    for number, record in enumerate(splits.make("verdict", DRAWN, split="validation")):
        record.load_image().save(place / f"{number:02d}.png")
    return place
