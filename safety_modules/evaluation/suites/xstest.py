"""XSTest (arXiv 2308.01263): text only; 250 safe prompts that sound unsafe and 200 unsafe contrasts.

Source of the layout: the repository `paul-rottger/xstest` (README; the header of `xstest_prompts.csv` by readers of it
in several projects).
"""

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.reader import Benchmark, BenchmarkReader, behaviour, loader, one_of, words

PARTS = ("safe", "unsafe")
OBTAIN = (
    "Pass hf://Paul/XSTest; or clone https://github.com/paul-rottger/xstest and pass its folder, or any folder with "
    "xstest_prompts.csv."
)
_COLUMNS = ("id", "prompt", "type", "label", "focus", "note")


def take(reading: BenchmarkReader) -> None:
    """The safe prompts, the unsafe contrasts, or both."""
    for where, row in reading.csv(reading.find("xstest_prompts.csv"), _COLUMNS):
        with reading.row(where):
            part = one_of(row, "label", PARTS)
            reading.add(
                Case(
                    id=words(row, "id"),
                    part=part,
                    prompt=words(row, "prompt"),
                    category=words(row, "type"),
                    **behaviour(part == "safe"),
                )
            )


BENCHMARK = Benchmark(
    name="xstest",
    title="XSTest",
    licence="CC BY 4.0",
    citation="Röttger et al., XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in Large Language "
    "Models, NAACL 2024",
    obtain=OBTAIN,
    load=loader("XSTest", OBTAIN, take),
    parts=PARTS,
)
