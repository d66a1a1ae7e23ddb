"""Questions as people put them: what the shipped adapter flags and what gets an answer, on the test split.

python benchmarks/asked.py --samples 400

Harmful questions about dual-use or sensitive things: among sixty harmless words, mistyped, in capitals, in other words,
over several turns; risky pictures without a question, with words of no language, or with a note that all is well; and
harmless ones that look like these. Answers, not verdicts
alone: `answered` gave content without a caution.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from script import command_line, keep, run

from safety_modules import metrics
from safety_modules.cli.options import Adapter, Json, Overwrite, attach, new_file
from safety_modules.evaluation.asking import ask_records
from safety_modules.evaluation.matchers import reaction
from safety_modules.evaluation.pocket_report import cell, estimate_at, table_title
from safety_modules.evaluation.results import intervals, settings, values
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.io.progress import track
from safety_modules.pocket import asked, splits
from safety_modules.records.record import Record

SAMPLES, SEED = 400, 0
PLAIN = ("harmful question", "harmless question")
HARMLESS = (PLAIN[1], "forbidden_word", "free_benign", "garbled_benign", "empty_benign", "reworded_benign")
MEASURES = ("flagged", "answered")


def sets_of(samples: int, seed: int) -> dict[str, list[Record]]:
    """Records by row of the table; of the plain questions one harmful and one harmless to a picture."""
    pairs = splits.make("dual", 2 * samples, split="test", seed=seed)
    found = {name: [one for one in pairs if one.is_risky == (name == PLAIN[0])] for name in PLAIN}
    return found | {name: splits.make(name, samples, split="test", seed=seed) for name in asked.MEASURED}


def evaluate_asked(safety: Any, samples: int = SAMPLES, seed: int = SEED, progress: bool = True) -> dict[str, Any]:
    """Shares from 0 to 1 by the form of the question.

    Args:
        safety: the attachment on llava-pocket.
        samples: records of each form.
        seed: of the records.
        progress: show a bar.
    """
    model, processor = safety.backbone.model, safety.backbone.processor
    sets, tree = sets_of(samples, seed), {}
    with track("asking", sum(map(len, sets.values())), progress) as advance:
        for name, records in sets.items():
            got = ask_records(model, processor, records, safety=True, on_batch=advance)
            tree[name] = {
                "flagged": metrics.rate([v is not None and v.flagged for v in got.verdicts]),
                "answered": metrics.rate([reaction(text) == "answered" for text in got.texts]),
            }
    return {"suite": "pocket asked", "settings": settings(samples, seed), **values(tree), "intervals": intervals(tree)}


def print_asked(results: Mapping[str, Any], console: Console | None = None) -> None:
    """A line a form, harmful ones first."""
    table = terminal_table(table_title("asked", results), "question", *MEASURES)
    for name in sorted((name for name in results["intervals"]), key=lambda name: name in HARMLESS):
        table.add_row(name.replace("_", " "), *(cell(estimate_at(results, name, measure)) for measure in MEASURES))
    (console or Console()).print(table)


def measure(
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    samples: Annotated[int, typer.Option(min=1, help="Records of each form.")] = SAMPLES,
    seed: Annotated[int, typer.Option(min=0)] = SEED,
) -> None:
    """Verdicts and answers by the form of a question."""
    new_file(json_file, overwrite)
    results = evaluate_asked(attach(None, adapter), samples=samples, seed=seed)
    print_asked(results)
    keep(results, json_file)


app = command_line(measure)


if __name__ == "__main__":
    run(app)
