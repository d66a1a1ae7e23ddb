"""`safety-modules train`."""

from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.calibrate import save_calibrated
from safety_modules.cli.extend import Training, extend_adapter, refuse_with_extend, refuse_without_extend
from safety_modules.cli.interruption import goes_on
from safety_modules.cli.options import Cache, Dtype, Model, Overwrite, Preset, Quantize, attach, load_base
from safety_modules.cli.outcome import Outcome
from safety_modules.cli.reading import (
    Categories,
    Formats,
    ImageKey,
    Images,
    Level,
    Question,
    Reading,
    Streaming,
    load_records,
)
from safety_modules.cli.recipes import RecipeNames, Set, Steps, read_recipes, without_text
from safety_modules.errors import ConfigError

POCKET_RECIPES = ("llava-pocket/stage1", "llava-pocket/stage2")


def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    model: Model = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Records; repeat for several, which are one set. Default: pocket's training mix."),
    ] = None,
    format: Formats = None,
    images: Images = None,
    image_key: ImageKey = None,
    categories: Categories = None,
    level: Level = None,
    question: Question = None,
    streaming: Streaming = False,
    recipe: RecipeNames = None,
    steps: Steps = None,
    settings: Set = None,
    preset: Preset = "default",
    validation: Annotated[
        list[str] | None, typer.Option(help="Records to measure the head on; repeat for several.")
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder for logs, plots, features and checkpoints; an interrupted run in it goes on."),
    ] = None,
    cache: Cache = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Train without bad records; RUNS/left-out.jsonl lists them.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write a TensorBoard log into --runs.")] = False,
    overwrite: Overwrite = False,
    extend: Annotated[
        str | None, typer.Option(help="Adapter to go on from, instead of a fresh one: folder, hub id or shipped name.")
    ] = None,
    new_type: Annotated[str | None, typer.Option(help="With --extend: add this risk type; the others stay.")] = None,
    policy: Annotated[Path | None, typer.Option(help="With --new-type: policy file with a rule for it.")] = None,
    remove_type: Annotated[str | None, typer.Option(help="With --extend: take an added type off again.")] = None,
    merge: Annotated[str | None, typer.Option(help="With --extend: add the added types of this adapter.")] = None,
) -> None:
    """Train safety modules in two stages, and save an adapter. Pocket's is calibrated too.

    With --runs any interruption is survived: the same command goes on, and a finished run is not trained again. Another
    recipe, data or base is refused there. A finished adapter in --out is only replaced with --overwrite. Several
    processes: accelerate launch ... -m safety_modules train ...
    """
    if runs is not None:
        goes_on(context)
    reading = Reading(format, images, categories, level, question, streaming, image_key)
    if skip_bad and runs is None:
        raise ConfigError("no place for the list of bad records: expected --runs with --skip-bad, got none. Name it.")
    left_out = runs / "left-out.jsonl" if runs and skip_bad else None
    if extend is not None:
        refuse_with_extend(
            validation=validation, tensorboard=tensorboard or None, preset=None if preset == "default" else preset
        )
        extend_adapter(
            extend,
            out,
            lambda adapter: attach(model, adapter, quantize, dtype),
            Training(data or (), reading, recipe or (), steps, settings or (), runs, cache, left_out, overwrite),
            new_type=new_type,
            remove_type=remove_type,
            merge=merge,
            policy=policy,
        )
        return
    refuse_without_extend(new_type=new_type, policy=policy, remove_type=remove_type, merge=merge)
    from safety_modules.attach.attach import attach_safety
    from safety_modules.config import SafetyConfig
    from safety_modules.pocket import mix
    from safety_modules.records import GoodRecords
    from safety_modules.training import distributed, train_safety

    if data is None and (model is not None or skip_bad or reading.given()):
        raise ConfigError("nothing to train on: expected --data with these options, got none. Name a data file.")
    # Before the base is loaded, and before somebody changes the files.
    chosen = read_recipes(recipe or POCKET_RECIPES, steps, settings)
    outcome = Outcome(out, runs, [one.stage for one in chosen.recipes], overwrite)
    outcome.check()
    base, processor = load_base(model, quantize, dtype)
    safety = attach_safety(base, processor, config=SafetyConfig.preset(preset))
    features = cache or (runs and runs / "features")
    options, held_out_options = reading.options(safety.config.taxonomy, data or (), validation or ())
    if data is None:
        records = GoodRecords(mix.training_records())
    else:
        records = load_records(data, options, safety, cache=features, left_out=left_out)
        if recipe is None:
            chosen = without_text(chosen, records.records)
    held_out = load_records(validation, held_out_options, safety, cache=features) if validation else None
    train_safety(safety, records, chosen.recipes, held_out, runs, cache_dir=features, tensorboard=tensorboard)
    if distributed.rank() > 0:
        return
    metadata = {
        "data": "pocket" if data is None else [Path(path).name for path in data],
        "records": len(records.records),
        **chosen.record(),
    }
    written = outcome.save(safety, metadata)
    if data is not None:
        if written:
            typer.echo(f"{out}: not calibrated yet. Next: safety-modules calibrate {out} --benign FILE")
        return
    if not written and "calibration" in (outcome.known() or {}):
        return
    save_calibrated(out, attach(None, out), mix.calibration_records(), mix.MAX_FALSE_ALARM, cache=cache)
