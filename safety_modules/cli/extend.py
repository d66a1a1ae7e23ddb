"""`safety-modules train --extend ADAPTER`: a trained adapter, with a type more, a type less, or more data."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from safety_modules.cli.outcome import RUN, Outcome
from safety_modules.cli.reading import Reading, load_records
from safety_modules.cli.recipes import Chosen, Training
from safety_modules.errors import ConfigError

if TYPE_CHECKING:
    from safety_modules.attach.attachment import SafetyAttachment


class Change(NamedTuple):
    """What becomes of a trained adapter (see `options.grouped`); nothing said: it is trained on more data."""

    new_type: Annotated[str | None, typer.Option(help="With --extend: add this risk type; the others stay.")] = None
    policy: Annotated[Path | None, typer.Option(help="With --new-type: policy file with a rule for it.")] = None
    remove_type: Annotated[str | None, typer.Option(help="With --extend: take an added type off again.")] = None
    merge: Annotated[str | None, typer.Option(help="With --extend: add the added types of this adapter.")] = None


def given(**options: object) -> str:
    """The options that are given, as they are typed; empty where none is."""
    return ", ".join(f"--{name.replace('_', '-')}" for name, value in options.items() if value not in (None, False, []))


def extend_adapter(
    adapter: str,
    out: Path,
    base: "Callable[[Path], SafetyAttachment]",
    training: Training,
    reading: Reading,
    change: Change,
) -> None:
    """Change a trained adapter (folder, hub id or shipped name) and save it; `base` loads the base with a folder's.

    Raises:
        ConfigError: options that do not go together, or one that is missing.
    """
    new_type = change.new_type
    needs_data = _check(training, reading, change)
    from safety_modules.adapter.folder import read_adapter
    from safety_modules.adapter.hub import find_adapter
    from safety_modules.training import distributed, extend, train_safety

    # All that can be refused without the base is refused before it is loaded.
    folder = find_adapter(adapter)
    old = read_adapter(folder)
    config, design = old.config, old.guard.design
    chosen = training.recipes([] if new_type is None else [extend.RECIPE]) if needs_data else Chosen([], {}, {})
    stages = [recipe.stage for recipe in chosen.recipes]
    outcome = Outcome(out, training.runs, stages, training.overwrite, about=[config.files, new_type])
    outcome.check()
    first = [name for name in design.taxonomy.labels if name not in design.added]
    if new_type in first:
        raise ConfigError(
            f"{new_type} not added: expected a type that {adapter} does not have, got one of its first types "
            f"({', '.join(first)}). More data of it: the same command without --new-type, with a "
            "--recipe of few steps."
        )
    rule = extend.rule_from(change.policy, new_type) if change.policy is not None and new_type is not None else None
    taxonomy = (design if new_type is None else extend.extended_config(design, new_type)).taxonomy

    if new_type in design.added:
        typer.echo(f"{new_type} is a type of {adapter} already: its branch is trained on, no other one is added.")
    safety = base(folder)
    metadata: dict[str, Any] = {name: value for name, value in config.metadata.items() if name != RUN}
    if needs_data:
        data = training.data or []
        (options,) = reading.options(taxonomy, data)
        records = load_records(data, options, safety, taxonomy, training.features, training.left_out)
    if new_type is not None:
        extend.extend_safety(
            safety, records, new_type, rule, chosen.recipes[0], output_dir=training.runs, cache_dir=training.features
        )
        about: dict[str, Any] = {"data": data, "recipe": chosen.texts.get("stage1.yaml", "default")}
        if chosen.changes:
            about["recipe_changes"] = chosen.changes["stage1.yaml"]
        metadata["added"] = {**_added(metadata), new_type: about}
    elif change.remove_type is not None:
        extend.remove_type(safety, change.remove_type)
        metadata["added"] = {name: value for name, value in _added(metadata).items() if name != change.remove_type}
        if (metadata.get("calibration") or {}).get("types") == [change.remove_type]:
            metadata["calibration"] = metadata["calibration"]["before"]
    elif change.merge is not None:
        other = find_adapter(change.merge)
        extend.merge_types(safety, other)
        metadata["added"] = {**_added(read_adapter(other).config.metadata), **_added(metadata)}
    else:
        train_safety(safety, records, chosen.recipes, None, training.runs, cache_dir=training.features)
        metadata |= {"trained_on": data, "trained_with": chosen.record()}
        metadata.pop("calibration", None)  # so are thresholds and temperature
    if distributed.rank() > 0 or not outcome.save(safety, metadata, config.dtype):
        return
    types = safety.config.taxonomy.types
    typer.echo(f"{out}: {', '.join(types)}.")
    if missing := ", ".join(name for name in types if name not in safety.thresholds):
        typer.echo(f"Not calibrated for {missing}. Next: safety-modules calibrate {out} --benign FILE")


def _check(training: Training, reading: Reading, change: Change) -> bool:
    """Whether the change needs data; ConfigError where options do not go together."""
    verbs = given(new_type=change.new_type, remove_type=change.remove_type, merge=change.merge)
    if "," in verbs:
        raise ConfigError(f"one change at a time: expected one of {verbs}, got all. Run it once for each.")
    needs_data = change.remove_type is None and change.merge is None
    if needs_data != bool(training.data):
        wanted, got = ("--data", "none") if needs_data else ("no --data", "some")
        raise ConfigError(f"data refused: expected {wanted} with {verbs or '--extend'}, got {got}. Correct it.")
    if change.policy is not None and change.new_type is None:
        raise ConfigError("a policy for nothing: expected --new-type with --policy, got none. Name the type.")
    if not needs_data:
        settings = {name: getattr(training, name) for name in ("recipe", "runs", "cache", "steps")}
        read = {"format or another option of data": reading.given()}
        if useless := given(**settings, set=training.settings, **read):
            raise ConfigError(f"options refused: expected none of {useless} with {verbs}, got some. Leave them out.")
    elif change.new_type is None and not training.recipe:
        raise ConfigError(
            "no recipe: expected --recipe with --extend, got none. A trained adapter needs a lower learning rate and "
            "fewer steps than a fresh one: begin with a tenth of both."
        )
    elif change.new_type is not None and len(training.recipe or ()) > 1:
        raise ConfigError(
            f"one recipe for a new type: expected one --recipe, got {len(training.recipe or ())}. Leave one out."
        )
    return needs_data


def _added(metadata: dict[str, Any]) -> dict[str, Any]:
    found = metadata.get("added")
    return dict(found) if isinstance(found, dict) else {}
