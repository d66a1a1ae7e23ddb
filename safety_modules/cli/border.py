"""`safety-modules train --defence davsp`: from records with labels to an adapter with a border."""

from pathlib import Path

import typer

from safety_modules.cli.options import load_base
from safety_modules.cli.outcome import Outcome
from safety_modules.cli.reading import Reading
from safety_modules.cli.recipes import Training
from safety_modules.cli.transfer import own_settings
from safety_modules.errors import ConfigError


def train_border_adapter(
    out: Path, model: str | None, training: Training, reading: Reading, quantize: str | None, dtype: str | None
) -> None:
    """Train davsp on risky and benign records and save it."""
    from safety_modules.attach.attach import attach_safety
    from safety_modules.backbones.bases import find_base, local_config
    from safety_modules.defences.davsp import DavspSettings
    from safety_modules.io.places import check_writable
    from safety_modules.pocket import mix
    from safety_modules.records import GoodRecords, read_good_records
    from safety_modules.records.record import raise_problems
    from safety_modules.taxonomy import DEFAULT_TAXONOMY
    from safety_modules.training.border import BorderRecipe, train_border

    if training.data is None and (model is not None or reading.given()):
        raise ConfigError("nothing to train on: expected --data with these options, got none. Name a data file.")
    settings, recipe = own_settings(DavspSettings, BorderRecipe, training)
    outcome = Outcome(out, None, overwrite=training.overwrite)
    outcome.check()
    check_writable(training.runs)
    if model is not None:
        local_config(find_base(model))  # the first thing that is missing is the first that is told
    if training.data is None:
        records = GoodRecords(mix.border_records())
    else:
        (options,) = reading.options(DEFAULT_TAXONOMY, training.data)
        records = read_good_records(training.data, options, DEFAULT_TAXONOMY)
        raise_problems(records.left_out, ", ".join(training.data))
    base, processor = load_base(model, quantize, dtype)
    safety = attach_safety(base, processor, defence=settings)
    aim, losses = train_border(safety, records, recipe, runs=training.runs)
    typer.echo(f"Direction behind block {aim.layer}: AUC {aim.auc:.2f} on pictures that it was not fitted to.")
    outcome.save(
        safety,
        {
            "data": [Path(path).name for path in training.data] if training.data else "pocket",
            "records": len(records.records),
            "recipe": recipe.model_dump(mode="json"),
            "direction": {name: value for name, value in aim._asdict().items() if name != "direction"},
        },
    )
    width, size = safety.defences[0].settings.width, safety.defences[0].settings.size
    typer.echo(
        f"{out}: davsp, {width} of {size} pixels, {len(losses)} of {recipe.steps} steps now, on "
        f"{len(records.records)} records."
    )
