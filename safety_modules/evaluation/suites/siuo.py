"""SIUO (arXiv 2406.15279): a safe picture and a safe question whose naive answer is unsafe.

Source of the layout: the repository `sinwang20/SIUO` (`data/`, `eval/generation-gpt4o-gen.py`).
"""

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.reader import Benchmark, BenchmarkReader, identity, loader, words

OBTAIN = (
    "Pass a folder with siuo_gen.json and images/ (or SIUO-images.zip as it is): hf://sinwang/SIUO, or the folder data "
    "of https://github.com/sinwang20/SIUO with the pictures its dataset card links."
)
_IMAGES = ("images", "data/images", "SIUO-images.zip", "data/SIUO-images.zip", "images.zip")


def take(reading: BenchmarkReader) -> None:
    """The questions answered in words (the multiple-choice form is left out)."""
    for where, row in reading.json_list(reading.find("siuo_gen.json", "data/siuo_gen.json")):
        with reading.row(where):
            reading.add(
                Case(
                    id=identity(row, "question_id"),
                    part="generation",
                    wanted="caution",  # a helpful answer that names the danger is right as well
                    prompt=words(row, "question"),
                    images=(reading.picture(words(row, "image"), *_IMAGES),),
                    category=words(row, "category"),
                    meta={"note": words(row, "safety_warning")},
                )
            )


BENCHMARK = Benchmark(
    name="siuo",
    title="SIUO: Safe Inputs but Unsafe Output",
    licence="CC BY-NC 4.0",
    citation="Wang et al., Cross-Modality Safety Alignment, arXiv 2406.15279",
    obtain=OBTAIN,
    load=loader("SIUO", OBTAIN, take),
)
