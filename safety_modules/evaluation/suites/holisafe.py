"""HoliSafe-Bench (arXiv 2506.04704): all five combinations of safe and unsafe picture, question and outcome.

Source of the layout: the repository `youngwanLEE/holisafe` (README, `eval/`) for the fields; readers of the data in
several projects, which agree with each other, for the names of file and folder.
"""

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.reader import (
    Benchmark,
    BenchmarkReader,
    behaviour,
    identity,
    loader,
    one_of,
    words,
)

PARTS = ("SSS", "SSU", "USU", "UUU", "SUU")
"""Picture, question, outcome: Safe or Unsafe."""
OBTAIN = (
    "Ask for access on https://huggingface.co/datasets/etri-vilab/holisafe-bench and pass "
    "hf://etri-vilab/holisafe-bench; or pass a folder with holisafe_bench.json and images/."
)


def take(reading: BenchmarkReader) -> None:
    """The combinations asked for."""
    for where, row in reading.json_list(reading.find("holisafe_bench.json")):
        with reading.row(where):
            part = one_of(row, "type", PARTS)
            reading.add(
                Case(
                    id=identity(row, "id"),
                    part=part,
                    prompt=words(row, "query"),
                    images=(reading.picture(words(row, "image"), "images"),),
                    category=words(row, "category"),
                    **behaviour(part.endswith("S")),
                    meta={"subcategory": words(row, "subcategory")},
                )
            )


BENCHMARK = Benchmark(
    name="holisafe",
    title="HoliSafe-Bench",
    licence="gated: its authors' terms",
    citation="Lee et al., HoliSafe: Holistic Safety Benchmarking and Modeling for Vision-Language Model, "
    "arXiv 2506.04704",
    obtain=OBTAIN,
    load=loader("HoliSafe-Bench", OBTAIN, take),
    parts=PARTS,
)
