"""What cheap changes to a picture do: pocket's transforms, one after the other, on the test split.

python benchmarks/transformations.py --samples 300               # base and shipped adapter
python benchmarks/transformations.py --base-only --samples 300

For each transform: visual QA of the base, and of attacks whose thing or word a person plainly sees (drawn large enough)
how many are not flagged, and how many get their content. Transforms that cut or mirror are not tried on texts.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from script import command_line, keep, run

from safety_modules import attach_safety, metrics, pocket
from safety_modules.cli.options import Adapter, Json, Overwrite, new_file
from safety_modules.evaluation.asking import ask_records
from safety_modules.evaluation.pocket_report import cell, estimate_at, table_title
from safety_modules.evaluation.pocket_suite import attacks_measured
from safety_modules.evaluation.results import intervals, settings, values
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.io.progress import track
from safety_modules.paths import adapter_for
from safety_modules.pocket import splits
from safety_modules.pocket.transforms import TRANSFORMS
from safety_modules.records.record import Record

SAMPLES, SEED = 300, 0
NONE = "unchanged"


def attacks(samples: int, style: str, seed: int, transform: str | None) -> list[Record]:
    """Two in three with a thing, one in three with a text, where it can be read afterwards."""
    texts = 0 if transform and (TRANSFORMS[transform].cuts or TRANSFORMS[transform].mirrors) else samples // 3
    found = splits.make("attack_large", samples - texts, split="test", style=style, seed=seed, transform=transform)
    return found + splits.make("attack_large_text", texts, split="test", style=style, seed=seed, transform=transform)


def evaluate_transforms(
    safety: Any | None, model: Any, processor: Any, samples: int, style: str, seed: int, progress: bool = True
) -> dict[str, Any]:
    """By transform, and the means over all: shares from 0 to 1.

    Args:
        safety: the attachment on the model; None = the base alone.
        model, processor: llava-pocket.
        samples: records of each kind and transform.
        style: of the drawings.
        seed: of the records.
        progress: show a bar.
    """
    tree: dict[str, Any] = {}
    names = [NONE, *TRANSFORMS]
    with track("transforms", len(names) * samples * (1 if safety is None else 2), progress) as advance:
        for name in names:
            transform = None if name == NONE else name
            asked = splits.make("vqa", samples, split="test", style=style, seed=seed, transform=transform)
            off = None if safety is None else False
            said = ask_records(model, processor, asked, safety=off, on_batch=advance)
            tree[name] = {"vqa": metrics.exact_match(said.texts, [record.answer or "" for record in asked])}
            if safety is not None:
                put = attacks(samples, style, seed, transform)
                got = ask_records(model, processor, put, safety=True, on_batch=advance)
                tree[name]["not_flagged"] = metrics.rate([v is None or not v.flagged for v in got.verdicts])
                tree[name]["content"] = attacks_measured(put, got.texts)["severe"]["content"]
    found = values(tree)
    means = {measure: float(np.mean([found[name][measure] for name in TRANSFORMS])) for measure in found[NONE]}
    worst = max(TRANSFORMS, key=lambda name: found[name].get("content", 0.0))
    return {
        "suite": "pocket transforms",
        "settings": {**settings(samples, seed), "style": style},
        "transforms": found,
        "mean": means,
        "worst_content": worst if safety is not None else None,
        "intervals": {"transforms": intervals(tree)},
    }


def print_transforms(results: Mapping[str, Any], console: Console | None = None) -> None:
    """One line a transform."""
    measures: Sequence[str] = [*results["mean"]]
    table = terminal_table(table_title("transforms", results), "picture", *(m.replace("_", " ") for m in measures))
    for name in results["transforms"]:
        table.add_row(name, *(cell(estimate_at(results, "transforms", name, measure)) for measure in measures))
    table.add_row("mean of all transforms", *(f"{100 * results['mean'][measure]:.1f}" for measure in measures))
    (console or Console()).print(table)


def transformations(
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    samples: Annotated[int, typer.Option(min=3, help="Records of each kind and transform.")] = SAMPLES,
    seed: Annotated[int, typer.Option(min=0)] = SEED,
    style: Annotated[str, typer.Option(help="seen, unseen or held_out.")] = "seen",
    base_only: Annotated[bool, typer.Option("--base-only", help="No adapter.")] = False,
) -> None:
    """Visual QA, verdicts and answers under cheap changes to the picture."""
    new_file(json_file, overwrite)
    model, processor = pocket.load()
    safety = None if base_only else attach_safety(model, processor, adapter=adapter_for(None, adapter))
    results = evaluate_transforms(safety, model, processor, samples, style, seed)
    print_transforms(results)
    keep(results, json_file)


app = command_line(transformations)


if __name__ == "__main__":
    run(app)
