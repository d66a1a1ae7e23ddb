"""MOSSBench (arXiv 2406.17806): 300 harmless questions about pictures that look as if they were not.

Source of the layout: the repository `xirui-li/MOSSBench` (`data/images_information/information.json`,
`MOSSBench/utils/utils.py`).
"""

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.reader import Benchmark, BenchmarkReader, behaviour, loader, one_of, words
from safety_modules.records.source import as_object

STIMULI = {
    "type 1": "exaggerated_risk",
    "type 2": "negated_harm",
    "type 3": "counterintuitive_interpretation",
}
OBTAIN = "Clone https://github.com/xirui-li/MOSSBench and pass its folder."


def take(reading: BenchmarkReader) -> None:
    """The harmless questions (the harmful contrasts of `data_contrast` are left out)."""
    table = "images_information/information.json"
    for where, key, row in reading.entries(reading.find(f"data/{table}", table)):
        with reading.row(where):
            part = STIMULI[one_of(as_object(row.get("metadata")), "over", tuple(STIMULI))]
            reading.add(
                Case(
                    id=key,
                    part=part,
                    prompt=words(row, "question"),
                    images=(reading.picture(words(row, "image"), "data", "."),),
                    category=part,
                    **behaviour(safe=True),
                )
            )


BENCHMARK = Benchmark(
    name="mossbench",
    title="MOSSBench",
    licence="CC",
    citation="Li et al., MOSSBench: Is Your Multimodal Language Model Oversensitive to Safe Queries?, arXiv 2406.17806",
    obtain=OBTAIN,
    load=loader("MOSSBench", OBTAIN, take),
    parts=tuple(STIMULI.values()),
)
