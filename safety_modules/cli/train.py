"""`safety-modules train`."""

from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.calibrate import calibrate_adapter
from safety_modules.cli.options import Cache, Images, Model, load_base
from safety_modules.errors import ConfigError


def train(
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    model: Model = None,
    data: Annotated[
        Path | None, typer.Option(help="Records (.jsonl or .json); default: pocket's training mix.")
    ] = None,
    images: Images = None,
    recipe: Annotated[
        list[Path] | None, typer.Option(help="A stage's YAML file; repeat for both. Default: pocket's.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Design of the modules: default or paper.")] = "default",
    validation: Annotated[Path | None, typer.Option(help="Records to measure the head on.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder for logs and checkpoints.")] = None,
    cache: Cache = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoints in --runs.")] = False,
) -> None:
    """Train safety modules in two stages, and save an adapter. Pocket's is calibrated too."""
    from safety_modules.attach import attach_safety
    from safety_modules.config import SafetyConfig
    from safety_modules.paths import recipe_dir
    from safety_modules.pocket import mix
    from safety_modules.records import read_records
    from safety_modules.training import calibrate as set_thresholds
    from safety_modules.training import train_safety

    if data is None and model is not None:
        raise ConfigError("nothing to train on: expected --data with --model, got none. Name a data file.")
    base, processor = load_base(model)
    safety = attach_safety(base, processor, config=SafetyConfig.preset(preset))
    recipes = recipe or [recipe_dir() / "stage1.yaml", recipe_dir() / "stage2.yaml"]
    records = mix.training_records() if data is None else read_records(data, images)
    held_out = None if validation is None else read_records(validation, images)
    train_safety(safety, records, recipes, held_out, runs, cache_dir=cache, resume=resume)
    metadata = {
        "data": "pocket" if data is None else data.name,
        "records": len(records),
        "recipes": {path.name: path.read_text(encoding="utf-8") for path in recipes},
    }
    safety.save_pretrained(out, metadata=metadata)
    if data is not None:
        typer.echo(f"{out}: not calibrated yet. Next: safety-modules calibrate --adapter {out} --benign FILE")
        return
    calibrate_adapter(set_thresholds, out, None, mix.calibration_records(), mix.MAX_FALSE_ALARM, False, cache)
