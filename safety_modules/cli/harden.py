"""`safety-modules harden`: a second look for a trained adapter, against pictures made to fool it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from safety_modules.cli.calibrate import save_calibrated
from safety_modules.cli.options import Dtype, Model, Overwrite, Quantize, attach, grouped
from safety_modules.cli.outcome import RUN, Outcome
from safety_modules.cli.reading import Reading, load_records
from safety_modules.cli.recipes import recipe_with
from safety_modules.errors import ConfigError
from safety_modules.io.places import check_writable


@grouped
def harden(
    adapter: Annotated[str, typer.Argument(help="Trained adapter: folder, hub id or shipped name.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapter with a second look.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="Records whose pictures it is trained on, whatever their labels; repeat. Default: pocket's."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of the recipe: steps, eps (of 255), rank, ... Repeat."),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder for checkpoints; an interrupted run in it goes on.")] = None,
    model: Model = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    reading: Reading = Reading(),
    overwrite: Overwrite = False,
) -> None:
    """Give an adapter a second look: the vision tower once more, changed so that perturbed pictures look as clean ones.

    The riskier of both looks is the verdict, at the price of a second run of the vision tower. Nothing is labelled, and
    the language model sees the first look. Thresholds are to be set anew (pocket's are).
    """
    from safety_modules.adapter.folder import read_adapter
    from safety_modules.adapter.hub import find_adapter
    from safety_modules.pocket import mix
    from safety_modules.training.robust import RobustRecipe, train_second_look

    if data is None and (model is not None or reading.given()):
        raise ConfigError("nothing to train on: expected --data with these options, got none. Name a data file.")
    recipe = recipe_with(RobustRecipe, settings or ())
    outcome = Outcome(out, None, overwrite=overwrite)
    outcome.check()
    check_writable(runs)
    folder = find_adapter(adapter)
    config = read_adapter(folder).config
    safety = attach(model, folder, quantize, dtype)
    if data is None:
        records: Any = mix.training_records()
    else:
        records = load_records(data, reading.options(safety.config.taxonomy, data)[0], safety)
    losses = train_second_look(safety, records, recipe, runs=runs)
    kept = {name: value for name, value in config.metadata.items() if name not in (RUN, "calibration")}
    outcome.save(safety, {**kept, "second look": recipe.model_dump(mode="json")}, config.dtype)
    typer.echo(f"{out}: a second look, {len(losses)} of {recipe.steps} steps now, eps {recipe.eps:g} of 255.")
    if data is not None:
        typer.echo(
            "The promise of its thresholds is void: two looks raise more alarms than one. Next: safety-modules "
            f"calibrate {out} --benign FILE"
        )
        return
    before: Any = config.metadata.get("calibration") or {}
    promised = before.get("max_false_alarm", mix.MAX_FALSE_ALARM)
    save_calibrated(out, attach(None, out), mix.calibration_records(), max_false_alarm=promised)
