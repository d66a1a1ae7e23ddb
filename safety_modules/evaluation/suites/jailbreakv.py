"""JailBreakV-28K (arXiv 2404.03027): jailbreaks of language models beside any picture, and attacks through pictures.

Source of the layout: the file list of the dataset on the hub, and readers of the data in several projects, which agree
with each other.
"""

from dataclasses import replace
from functools import partial

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.reader import Benchmark, BenchmarkReader, loader, words

OBTAIN = (
    "Pass hf://JailbreakV-28K/JailBreakV-28k, which has the pictures of the mini version; for all pictures download "
    "the archive that its card links and pass a folder with JailBreakV_28K.csv, mini_JailBreakV_28K.csv, figstep/, "
    "llm_transfer_attack/ and query_related/."
)
_COLUMNS = ("id", "jailbreak_query", "redteam_query", "format", "policy", "image_path")


def take(reading: BenchmarkReader, table: str) -> None:
    """All 28,000, or the authors' choice of 280."""
    path = reading.find(f"JailBreakV_28K/{table}", table)
    images = str(path.parent.relative_to(reading.folder))
    for where, row in reading.csv(path, _COLUMNS):
        with reading.row(where):
            reading.add(
                Case(
                    id=words(row, "id"),
                    part=words(row, "format"),
                    wanted="refuse",
                    prompt=words(row, "jailbreak_query"),
                    images=(reading.picture(words(row, "image_path"), images),),
                    category=words(row, "policy"),
                    meta={"goal": words(row, "redteam_query")},
                )
            )


BENCHMARK = Benchmark(
    name="jailbreakv-28k",
    title="JailBreakV-28K",
    licence="MIT",
    citation="Luo et al., JailBreakV: A Benchmark for Assessing the Robustness of MultiModal Large Language Models "
    "against Jailbreak Attacks, COLM 2024",
    obtain=OBTAIN,
    load=loader("JailBreakV-28K", OBTAIN, partial(take, table="JailBreakV_28K.csv")),
)
MINI = replace(
    BENCHMARK,
    name="jailbreakv-mini",
    title="JailBreakV-28K, mini",
    load=loader("JailBreakV-28K (mini)", OBTAIN, partial(take, table="mini_JailBreakV_28K.csv")),
)
