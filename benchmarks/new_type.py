"""What adding a risk type to an adapter gives, costs and leaves alone: docs/fine-tuning.md, run and measured.

    python benchmarks/new_type.py

The commands of the page run as a user runs them, each a process of its own, on data that the page makes (three foods of
pocket's world declared a risk). Verdicts are taken before, after, and after the type was removed again, on pocket's
test split.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from script import command_line, keep, run

from safety_modules import metrics, pocket
from safety_modules.attach.attach import SafetyAttachment, attach_safety
from safety_modules.cli.options import Json, Overwrite, new_file
from safety_modules.errors import DataError, SafetyModulesError
from safety_modules.evaluation.asking import ask_records
from safety_modules.evaluation.matchers import is_refusal
from safety_modules.evaluation.pocket_report import estimate_at
from safety_modules.evaluation.results import intervals, settings, values
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.paths import adapter_dir
from safety_modules.pocket import splits
from safety_modules.pocket.new_risk import ALLERGENS, clean_without, new_risk, without, write_example
from safety_modules.policy.verdict import Verdict
from safety_modules.records.record import Record

NAME = "allergen"
COMMANDS = (
    "data check mine --new-type allergen --json report.json",
    "train --extend llava-pocket-safe --new-type allergen --data mine --out my-adapter --runs runs",
    "calibrate my-adapter --benign benign.csv --data held-out.csv --max-false-alarm 0.02",
)
"""The page's, in order."""
REMOVAL = "train --extend my-adapter --remove-type allergen --out without"
LABELS = {
    "new_flagged": "pictures of the new type flagged",
    "new_recall": "... as the new type",
    "new_false_alarms": "clean flagged as the new type",
    "new_refused": "attacks of the new type refused",
    "false_alarms": "clean flagged",
    "old_recall": "old risks flagged",
    "old_type_accuracy": "old types right, where flagged",
    "old_level_accuracy": "old levels right, where flagged",
}


def evaluate_new_type(
    folder: str | PathLike[str], *, samples: int = 300, answers: int = 60, seed: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Walk through the page in a folder, measure before and after, and take the type off again.

    Args:
        folder: for data and adapters; empty or missing.
        samples: test pictures of each kind: new, old, clean.
        answers: attacks of the new type that are answered, guarded.
        seed: of the test pictures.
        progress: show what the commands print.

    Returns:
        Plain JSON types: shares under their names, with their 95 % intervals under `intervals`; `seconds` of each
        command; `old_verdicts_kept`: whether every verdict that was not the new type's stayed as it was, bit for bit;
        `removed_identical`: whether thresholds, temperature and all verdicts were the old ones again.

    Raises:
        DataError: nothing to measure, or a folder with something in it.
        SafetyModulesError: a command failed; the message is what it printed.

    Does not cover: the unseen style, and pictures that carry the new risk and an old one at once.
    """
    target = Path(folder)
    if min(samples, answers) < 1:
        raise DataError(f"nothing to measure: expected samples and answers, got {samples} and {answers}. Raise them.")
    if target.exists() and any(target.iterdir()):
        raise DataError(f"not measured: expected an empty folder, got {target} with something in it. Name another.")
    write_example(target, NAME)
    parts = {
        "new": new_risk(NAME, ALLERGENS, samples, split="test", seed=seed),
        "old": without(ALLERGENS, splits.make("attack", 2 * samples, split="test", seed=seed))[:samples],
        "clean": clean_without(ALLERGENS, samples, split="test", seed=seed),
    }
    before, was = _verdicts(adapter_dir(), parts)
    seconds = {command: _run(command, target, progress) for command in COMMANDS}
    after, _ = _verdicts(target / "my-adapter", parts)
    safety = attach_safety(*pocket.load(), adapter=target / "my-adapter")
    said = ask_records(safety.backbone.model, safety.backbone.processor, parts["new"][:answers], safety=True)
    _run(REMOVAL, target, progress)
    again, removed = _verdicts(target / "without", parts)
    tree = {
        "before": _quality(before, parts),
        "after": {
            **_quality(after, parts),
            "new_refused": metrics.rate([is_refusal(text) for text in said.texts]),
        },
    }
    return {
        "suite": "new type",
        "settings": settings(samples, seed),
        "type": NAME,
        "concepts": list(ALLERGENS),
        "seconds": {command: round(taken, 1) for command, taken in seconds.items()},
        **values(tree),
        "intervals": intervals(tree),
        "old_verdicts_kept": all(
            _same(old, new) for kind in parts for old, new in zip(before[kind], after[kind], strict=True)
        ),
        "removed_identical": again == before and removed == was,
    }


def _verdicts(adapter: Path, parts: Mapping[str, list[Record]]) -> tuple[dict[str, list[Verdict]], Any]:
    """On pocket, with an adapter; and the adapter's thresholds and temperature."""
    safety: SafetyAttachment = attach_safety(*pocket.load(), adapter=adapter)
    found = {
        kind: safety.classify([record.load_image() for record in records], [record.question for record in records])
        for kind, records in parts.items()
    }
    return found, (safety.thresholds, safety.temperature)


def _run(command: str, folder: Path, progress: bool) -> float:
    """Run a command of the page; returns its seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "safety_modules", *command.split()], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise SafetyModulesError(f"safety-modules {command} failed:\n{done.stdout}{done.stderr}")
    if progress:
        print(f"$ safety-modules {command}\n{done.stdout}")
    return time.perf_counter() - began


def _same(old: Verdict, new: Verdict) -> bool:
    """Whether the new type changed nothing but what it said itself."""
    if {name: new.scores[name] for name in old.scores} != old.scores:
        return False
    return new.type == NAME or (new.rule, new.type, new.level, new.risk) == (old.rule, old.type, old.level, old.risk)


def _quality(verdicts: Mapping[str, list[Verdict]], parts: Mapping[str, list[Record]]) -> dict[str, metrics.Estimate]:
    old = list(zip(verdicts["old"], parts["old"], strict=True))
    flagged = [(verdict, record) for verdict, record in old if verdict.flagged]
    found = {
        "false_alarms": metrics.rate([verdict.flagged for verdict in verdicts["clean"]]),
        "old_recall": metrics.rate([verdict.flagged for verdict, _ in old]),
        "old_type_accuracy": metrics.rate([verdict.type == record.type for verdict, record in flagged]),
        "old_level_accuracy": metrics.rate([verdict.level == record.level for verdict, record in flagged]),
    }
    if NAME in verdicts["new"][0].scores:
        found["new_flagged"] = metrics.rate([verdict.flagged for verdict in verdicts["new"]])
        found["new_recall"] = metrics.rate([verdict.type == NAME and verdict.flagged for verdict in verdicts["new"]])
        found["new_false_alarms"] = metrics.rate(
            [verdict.type == NAME and verdict.flagged for verdict in verdicts["clean"]]
        )
    return found


def print_new_type(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `evaluate_new_type` returned."""
    console = console or Console()
    chosen = results["settings"]
    seconds = sum(results["seconds"].values())
    title = (
        f"new type {results['type']} ({', '.join(results['concepts'])}), added by the documented commands in "
        f"{seconds:.0f} s; {chosen['samples']} test pictures of each kind"
    )
    table = terminal_table(title, "%, 95 % interval", "before", "after")
    for name, label in LABELS.items():
        cells = [
            estimate_at(results, time, name).percent() if name in results[time] else "" for time in ("before", "after")
        ]
        table.add_row(label, *cells)
    console.print(table)
    kept = "as they were, bit for bit" if results["old_verdicts_kept"] else "[red]not as they were[/red]"
    console.print(f"verdicts of the old types after the new one was added and calibrated: {kept}")
    same = "as before, bit for bit" if results["removed_identical"] else "[red]others than before[/red]"
    console.print(f"thresholds, temperature and verdicts after it was removed again: {same}")


def new_type(
    json_file: Json = None,
    overwrite: Overwrite = False,
    out: Annotated[Path | None, typer.Option(help="Empty folder for data and adapters; default: not kept.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Test pictures of each kind.")] = 300,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """What adding a risk type gives and costs: the commands of docs/fine-tuning.md, run and measured (two minutes)."""
    new_file(json_file, overwrite)
    with TemporaryDirectory() as folder:
        results = evaluate_new_type(out or folder, samples=samples, seed=seed)
    print_new_type(results)
    keep(results, json_file)


app = command_line(new_type)


if __name__ == "__main__":
    run(app)
