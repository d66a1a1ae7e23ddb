"""`safety-modules train`."""

from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.calibrate import save_calibrated
from safety_modules.cli.extend import Training, extend_adapter, refuse_with_extend, refuse_without_extend
from safety_modules.cli.options import Cache, Dtype, Images, Model, Quantize, load_base, load_records
from safety_modules.errors import ConfigError


def train(
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    model: Model = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    data: Annotated[str | None, typer.Option(help="Records; default: pocket's training mix.")] = None,
    format: Annotated[str | None, typer.Option(help="Of --data; default: recognised (`data check --help`).")] = None,
    images: Images = None,
    recipe: Annotated[
        list[Path] | None, typer.Option(help="A stage's YAML file; repeat for both. Default: pocket's.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Design of the modules: default or paper.")] = "default",
    validation: Annotated[str | None, typer.Option(help="Records to measure the head on.")] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder for logs, plots, features and checkpoints; an interrupted run in it goes on."),
    ] = None,
    cache: Cache = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Train without bad records; RUNS/left-out.jsonl lists them.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write a TensorBoard log into --runs.")] = False,
    extend: Annotated[Path | None, typer.Option(help="Adapter folder to go on from, instead of a fresh one.")] = None,
    new_type: Annotated[str | None, typer.Option(help="With --extend: add this risk type; the others stay.")] = None,
    policy: Annotated[Path | None, typer.Option(help="With --new-type: policy file with a rule for it.")] = None,
    remove_type: Annotated[str | None, typer.Option(help="With --extend: take an added type off again.")] = None,
    merge: Annotated[Path | None, typer.Option(help="With --extend: add the added types of this adapter.")] = None,
) -> None:
    """Train safety modules in two stages, and save an adapter. Pocket's is calibrated too.

    With --runs any interruption is survived: the same command goes on, and a finished run is not trained again. Another
    recipe, data or base is refused there. Several processes: accelerate launch ... -m safety_modules train ...
    """
    if extend is not None:
        unused = {"quantize": quantize, "dtype": dtype, "validation": validation, "skip_bad": skip_bad or None}
        refuse_with_extend(**unused, tensorboard=tensorboard or None, preset=None if preset == "default" else preset)
        extend_adapter(
            extend,
            out,
            model,
            Training(data, format, images, recipe or [], runs, cache),
            new_type=new_type,
            remove_type=remove_type,
            merge=merge,
            policy=policy,
        )
        return
    refuse_without_extend(new_type=new_type, policy=policy, remove_type=remove_type, merge=merge)
    from safety_modules.attach import attach_safety
    from safety_modules.config import SafetyConfig
    from safety_modules.paths import recipe_dir
    from safety_modules.pocket import mix
    from safety_modules.training import Recipe, processes, train_safety

    if skip_bad and runs is None:
        raise ConfigError("no place for the list of bad records: expected --runs with --skip-bad, got none. Name it.")
    if data is None and (model is not None or skip_bad or format is not None):
        raise ConfigError("nothing to train on: expected --data with these options, got none. Name a data file.")
    paths = recipe or [recipe_dir() / "stage1.yaml", recipe_dir() / "stage2.yaml"]
    recipes = [Recipe.from_yaml(path) for path in paths]  # before the base is loaded
    base, processor = load_base(model, quantize, dtype)
    safety = attach_safety(base, processor, config=SafetyConfig.preset(preset))
    if data is None:
        records = mix.training_records()
    else:
        records = load_records(data, images, format, left_out=runs / "left-out.jsonl" if runs and skip_bad else None)
    held_out = None if validation is None else load_records(validation, images)
    train_safety(safety, records, recipes, held_out, runs, cache_dir=cache, tensorboard=tensorboard)
    if processes.rank() > 0:
        return
    metadata = {
        "data": "pocket" if data is None else Path(data).name,
        "records": len(records),
        "recipes": {path.name: path.read_text(encoding="utf-8") for path in paths},
    }
    safety.save_pretrained(out, metadata=metadata)
    if data is not None:
        typer.echo(f"{out}: not calibrated yet. Next: safety-modules calibrate {out} --benign FILE")
        return
    save_calibrated(out, None, mix.calibration_records(), mix.MAX_FALSE_ALARM, cache=cache)
