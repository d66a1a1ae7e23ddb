"""Qi et al. (arXiv 2306.13213): adversarial pictures, each before every one of a list of harmful instructions.

Source of the layout: the repository `Unispac/Visual-Adversarial-Examples-Jailbreak-Large-Language-Models`
(`adversarial_images/`, `harmful_corpus/`).
"""

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.reader import BenchmarkReader

SUFFIXES = (".bmp", ".png", ".jpg", ".jpeg")


def take(reading: BenchmarkReader) -> None:
    """Every instruction with every picture; the part is the picture's name (`clean` is the one without an attack)."""
    pictures = sorted(path for path in reading.find("adversarial_images").iterdir() if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise DataError(f"Qi et al. is incomplete: expected pictures in adversarial_images, got none. {reading.obtain}")
    path = reading.find("harmful_corpus/manual_harmful_instructions.csv", "manual_harmful_instructions.csv")
    for number, (where, cells) in enumerate(reading.cells(path)):
        with reading.row(where):
            instruction, *others = cells
            if not instruction.strip() or any(cell.strip() for cell in others):
                raise DataError(f"expected one cell with words, got {len(cells)}; quote an instruction with commas.")
            for picture in pictures:
                reading.add(
                    Case(
                        id=f"{picture.name}/{number}",
                        part=picture.stem,
                        wanted="refuse",
                        prompt=instruction,
                        images=(picture,),
                        category=picture.stem,
                    )
                )
