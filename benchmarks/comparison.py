"""The comparison of systems on pocket: trains them, and sets the reports of several trainings side by side.

python benchmarks/comparison.py train --out S --effort 0.5 --seed 0 --seed 1 --seed 2
python benchmarks/comparison.py table TABLE0 TABLE1 TABLE2     # folders of `safety-modules evaluate --suite`
"""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import typer
from competitors import train_systems
from pocket_trainings import Calibration, Effort, Only, Out, Records, budget_of
from rich.console import Console
from script import command_line, keep, run, spread

from safety_modules.cli.interruption import goes_on
from safety_modules.cli.options import Json, Overwrite, new_file
from safety_modules.errors import ConfigError
from safety_modules.evaluation.harness.readout import column_title
from safety_modules.evaluation.outcomes import MEASURES
from safety_modules.evaluation.terminal import attack_table, terminal_table

REPORT = "report.json"
SAME = ("suite", "base")
"""Keys of a report that all must agree on: the cases with their digest, and the base with its checksum."""


def across_seeds(folders: Sequence[str | PathLike[str]]) -> dict[str, Any]:
    """Gather what several runs of `evaluate --suite` found on the same cases.

    Args:
        folders: of the runs. A system may be missing in some: what is not trained needs one run.

    Returns:
        Plain JSON types: `judge` (the first of the reports), `folders`, and `groups`: group, system, measure, then the
        values, one for each report that has the system. Shares are from 0 to 1; `time` is the median ratio to the base
        on benign cases (all cases where there are none), the same in every group; `extra_mb` likewise. And
        `attacks`: group, system, risk, share, then the values; `parts`: part with attacks, system, then shares of them
        that were answered; `auroc`: group, system, then the values.

    Raises:
        ConfigError: a folder without a report, or reports on other cases, another base, or by another judge.
    """
    reports = [_read(Path(folder)) for folder in folders]
    if not reports:
        raise ConfigError("nothing to gather: expected folders of evaluations, got none. Name them.")
    judge = next(iter(reports[0]["judges"]))
    for folder, report in zip(folders, reports, strict=True):
        differ = [key for key in SAME if report.get(key) != reports[0].get(key)]
        differ += [] if judge in report["judges"] else ["judge"]
        if differ:
            raise ConfigError(
                f"not comparable: expected the {' and '.join(differ)} of {folders[0]}, got another in {folder}. "
                "Evaluate all seeds with the same options."
            )
    groups: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    attacks: dict[str, dict[str, dict[str, dict[str, list[float | None]]]]] = {}
    for report in reports:
        for group, table in report["attacks"][judge].items():
            for system, risks in table.items():
                of_system = attacks.setdefault(group, {}).setdefault(system, {})
                for risk, shares in risks.items():
                    for name, share in shares.items():
                        of_system.setdefault(risk, {}).setdefault(name, []).append(share["value"])
        for group, table in report["results"][judge].items():
            for system, row in table.items():
                found = groups.setdefault(group, {}).setdefault(system, {})
                cost = report["cost"][system]
                ratio = cost["time_ratio_benign"] or cost["time_ratio"]
                values = {name: None if row[name] is None else row[name]["value"] for name in MEASURES}
                values |= {"time": ratio and ratio["median"], "extra_mb": report["systems"][system]["extra_mb"]}
                for name, value in values.items():
                    found.setdefault(name, []).append(value)
    parts: dict[str, dict[str, list[float]]] = {}
    auroc: dict[str, dict[str, list[float]]] = {}
    for report in reports:
        for part, table in report["parts"][judge].items():
            for system, row in table.items():
                if row["answered"] is not None:
                    parts.setdefault(part, {}).setdefault(system, []).append(row["answered"]["value"])
        for group, table in report["verdicts"].items():
            for system, row in table.items():
                if row["auroc"] is not None:
                    auroc.setdefault(group, {}).setdefault(system, []).append(row["auroc"]["value"])
    folders = [str(folder) for folder in folders]
    tables = {"groups": groups, "attacks": attacks, "parts": parts, "auroc": auroc}
    return {"judge": judge, "folders": folders, **tables}


def print_seeds(results: dict[str, Any], console: Console | None = None) -> None:
    """Print what `across_seeds` returned, a table for each group."""
    console = console or Console()
    for group, systems in results["groups"].items():
        main = [name for name, measure in MEASURES.items() if measure.main]
        measured = [name for name in main if any(v is not None for row in systems.values() for v in row[name])]
        title = f"{group}, judge {results['judge']}, {len(results['folders'])} reports; mean (range)"
        columns = (*map(column_title, measured), "time, ratio", "MB", "trainings")
        table = terminal_table(title, "system", *columns, wrap=False)
        for system, row in systems.items():
            cells = [spread(row[name], 100 if MEASURES[name].share else 1) for name in measured]
            cells += [spread(row["time"], 1, digits=2), f"{row['extra_mb'][0]:.2f}", str(len(row["time"]))]
            table.add_row(system, *cells)
        console.print(table)
        attacks = attack_table(
            f"what attacks got, %; {title}", results["attacks"][group], lambda shares: spread(shares or [])
        )
        if attacks is not None:
            console.print(attacks)
    _print_columns(console, "attacks answered without a caution, %", results["parts"])
    _print_columns(console, "AUROC of verdicts, %", results["auroc"])


def _print_columns(console: Console, title: str, columns: dict[str, dict[str, list[float]]]) -> None:
    """A row for each system, a column for each part or group; percent."""
    table = terminal_table(title, "system", *columns)
    for system in dict.fromkeys(system for column in columns.values() for system in column):
        table.add_row(system, *(spread(column.get(system, []), 100) for column in columns.values()))
    console.print(table)


def _read(folder: Path) -> dict[str, Any]:
    try:
        report = json.loads((folder / REPORT).read_bytes())
        if {"judges", "results", "attacks", "parts", "verdicts", "cost", "systems", *SAME} <= report.keys():
            return dict(report)
        found = "another file of that name"
    except (OSError, ValueError, AttributeError) as error:
        found = str(error)
    raise ConfigError(f"no report: expected {REPORT} of an evaluation in {folder}, got {found}. Run evaluate --suite.")


def train(
    context: typer.Context,
    out: Out,
    seed: Annotated[list[int] | None, typer.Option("--seed", min=0, help="Repeat for several; default: 0.")] = None,
    only: Only = None,
    records: Records = None,
    effort: Effort = None,
    calibration: Calibration = None,
) -> None:
    """Train what `evaluate` compares: gated, lora, paper, meta-token, tga, davsp; the same world, seed and budget.

    Gives OUT/seed<S>/<name>, for `--defence <name>=FOLDER`. What is finished stays; the same command goes on.
    """
    goes_on(context)
    train_systems(out, seed or [0], only, budget_of(records, effort, calibration), say=typer.echo)


def table(
    folders: Annotated[list[Path], typer.Argument(help="Folders of `evaluate --suite`, each with another training.")],
    json_file: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """Several reports on the same cases, with other trainings of the systems: mean and range of each number."""
    new_file(json_file, overwrite)
    results = across_seeds(folders)
    print_seeds(results)
    keep(results, json_file)


app = command_line(train, table)


if __name__ == "__main__":
    run(app)
