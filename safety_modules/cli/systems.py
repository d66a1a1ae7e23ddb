"""`safety-modules evaluate train-systems` and `ablations`: training for comparisons, on pocket."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_modules.cli.interruption import goes_on
from safety_modules.cli.options import Json, Overwrite, new_file, writable_folder

if TYPE_CHECKING:
    from safety_modules.evaluation.contest.trainings import Budget

Out = Annotated[
    Path,
    typer.Option(
        callback=writable_folder, help="Folder for weights, logs and features; an interrupted run in it goes on."
    ),
]
Records = Annotated[int | None, typer.Option(min=1, help="Training records with a picture; default: 28,000.")]
Effort = Annotated[float | None, typer.Option(min=0.0001, help="Share of the recipes' steps; default: all.")]
Calibration = Annotated[int | None, typer.Option(min=1, help="Benign records thresholds are set on; default: 2,000.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="One of them; repeat. Default: all.")]


def train_systems(
    context: typer.Context,
    out: Out,
    seed: Annotated[list[int] | None, typer.Option("--seed", min=0, help="Repeat for several; default: 0.")] = None,
    only: Only = None,
    records: Records = None,
    effort: Effort = None,
    calibration: Calibration = None,
) -> None:
    """Train what `evaluate` compares: gated, lora, paper, meta-token; the same pocket records, seed and budget.

    Gives OUT/seed<S>/<name>, for `--defence <name>=FOLDER`. What is finished stays; the same command goes on.
    """
    from safety_modules.evaluation.contest.competitors import train_systems as run

    goes_on(context)
    run(out, seed or [0], only, _budget(records, effort, calibration), say=typer.echo)


def ablations(
    context: typer.Context,
    out: Out,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant.")] = 3,
    only: Only = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Records of each kind and style; default: 200.")] = None,
    records: Records = None,
    effort: Effort = None,
    calibration: Calibration = None,
) -> None:
    """The design with and without each of its parts, measured on pocket's validation split: mean and range of seeds.

    Numbers go to OUT/ablations. What is trained or measured stays; the same command goes on.
    """
    from safety_modules.evaluation.contest.ablation_table import print_ablations
    from safety_modules.evaluation.contest.ablations import run_ablations
    from safety_modules.evaluation.contest.validation import SAMPLES

    goes_on(context)
    budget = _budget(records, effort, calibration)
    print_ablations(run_ablations(out, range(seeds), only, budget, samples or SAMPLES, say=typer.echo))


def seeds(
    folders: Annotated[list[Path], typer.Argument(help="Folders of `evaluate --suite`, each with another training.")],
    json_file: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """Several reports on the same cases, with other trainings of the systems: mean and range of each number."""
    from safety_modules.evaluation.contest.seeds import across_seeds, print_seeds
    from safety_modules.evaluation.results import write_json

    new_file(json_file, overwrite)
    results = across_seeds(folders)
    print_seeds(results)
    if json_file is not None:
        write_json(json_file, results)


def _budget(records: int | None, effort: float | None, calibration: int | None) -> "Budget":
    from safety_modules.evaluation.contest.trainings import Budget

    given = {"records": records, "effort": effort, "calibration": calibration}
    return Budget.model_validate({name: value for name, value in given.items() if value is not None})
