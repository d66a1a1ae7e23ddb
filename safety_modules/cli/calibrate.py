"""`safety-modules calibrate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from safety_modules.cli.options import Cache, Images, Model, attach
from safety_modules.errors import ConfigError


def calibrate(
    adapter: Annotated[Path, typer.Option(help="Adapter folder; its thresholds are replaced.")],
    model: Model = None,
    benign: Annotated[
        Path | None, typer.Option(help="Clean records (.json or .jsonl); default: pocket's validation data.")
    ] = None,
    images: Images = None,
    max_false_alarm: Annotated[float, typer.Option(help="At most this share of benign images is flagged.")] = 0.01,
    per_type: Annotated[bool, typer.Option("--per-type", help="A threshold for each risk type.")] = False,
    cache: Cache = None,
) -> None:
    """Set an adapter's thresholds: "at most 1 % of my benign images flagged"."""
    from safety_modules.pocket import mix
    from safety_modules.records import read_records
    from safety_modules.training import calibrate as set_thresholds

    if benign is None and model is not None:
        raise ConfigError("nothing to calibrate on: expected --benign with --model, got none. Name a data file.")
    records = mix.calibration_records() if benign is None else read_records(benign, images)
    calibrate_adapter(set_thresholds, adapter, model, records, max_false_alarm, per_type, cache)


def calibrate_adapter(
    set_thresholds: Any,
    adapter: Path,
    model: Path | None,
    records: Any,
    max_false_alarm: float,
    per_type: bool,
    cache: Path | None,
) -> None:
    """On the adapter as it is on disk, so that rounding is part of what is calibrated."""
    from safety_modules.adapter import read_adapter

    safety = attach(model, adapter)
    config = read_adapter(adapter).config
    found = set_thresholds(safety, records, max_false_alarm, per_type, cache_dir=cache)
    safety.save_pretrained(adapter, dtype=config.dtype, metadata=config.metadata)
    limits = ", ".join(f"{name} {value:.3f}" for name, value in found.thresholds.items())
    typer.echo(f"{adapter}: thresholds {limits}; {found.flagged} of {found.images} benign pictures flagged")
