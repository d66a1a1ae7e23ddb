"""`safety-modules train --extend ADAPTER`: a trained adapter, with a type more, a type less, or more data."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from safety_modules.cli.outcome import RUN, Outcome
from safety_modules.cli.reading import Reading, load_records
from safety_modules.cli.recipes import Chosen, read_recipes
from safety_modules.errors import ConfigError

if TYPE_CHECKING:
    from safety_modules.attach.attachment import SafetyAttachment
    from safety_modules.records import GoodRecords
    from safety_modules.taxonomy import Taxonomy


class Training(NamedTuple):
    """What to train with: the options of `train` that mean the same with and without --extend."""

    data: Sequence[str]
    reading: Reading
    recipes: Sequence[str]
    steps: int | None
    settings: Sequence[str]
    runs: Path | None
    cache: Path | None
    left_out: Path | None
    overwrite: bool

    def records(self, safety: "SafetyAttachment", taxonomy: "Taxonomy") -> "GoodRecords":
        """The records of the data."""
        (options,) = self.reading.options(taxonomy, self.data)
        return load_records(self.data, options, safety, taxonomy, self.features, self.left_out)

    @property
    def features(self) -> Path | None:
        """Folder of vision features."""
        return self.cache or (self.runs and self.runs / "features")


def extend_adapter(
    adapter: str,
    out: Path,
    base: "Callable[[Path], SafetyAttachment]",
    training: Training,
    *,
    new_type: str | None = None,
    remove_type: str | None = None,
    merge: str | None = None,
    policy: Path | None = None,
) -> None:
    """Change a trained adapter and save it.

    Args:
        adapter: its folder, hub id or shipped name.
        out: folder of the changed one.
        base: loads the base with the adapter in a folder.
        training: see `Training`.
        new_type: to add.
        remove_type: to take off.
        merge: folder, hub id or shipped name of an adapter whose added types are to be added.
        policy: file with a rule for the new type.

    Raises:
        ConfigError: options that do not go together, or one that is missing.
    """
    changes = {"--new-type": new_type, "--remove-type": remove_type, "--merge": merge}
    verbs = [option for option, value in changes.items() if value is not None]
    if len(verbs) > 1:
        raise ConfigError(f"one change at a time: expected one of {', '.join(verbs)}, got all. Run it once for each.")
    needs_data = remove_type is None and merge is None
    if needs_data != bool(training.data):
        wanted, got = ("--data", "none") if needs_data else ("no --data", "some")
        raise ConfigError(f"data refused: expected {wanted} with {(verbs or ['--extend'])[0]}, got {got}. Correct it.")
    if policy is not None and new_type is None:
        raise ConfigError("a policy for nothing: expected --new-type with --policy, got none. Name the type.")
    if not needs_data:
        useless = {
            "recipe": training.recipes or None,
            **{name: getattr(training, name) for name in ("runs", "cache", "steps")},
            "set": training.settings or None,
        }
        if given := _given({**useless, "format or another option of data": training.reading.given() or None}):
            raise ConfigError(f"options refused: expected none of {given} with {verbs[0]}, got some. Leave them out.")
    from safety_modules.adapter.folder import read_adapter
    from safety_modules.adapter.hub import find_adapter
    from safety_modules.training import distributed, extend, train_safety

    # All that can be refused without the base is refused before it is loaded.
    folder = find_adapter(adapter)
    config = read_adapter(folder).config
    chosen = _recipes(training, new_type) if needs_data else Chosen([], {}, {})
    stages = [recipe.stage for recipe in chosen.recipes]
    outcome = Outcome(out, training.runs, stages, training.overwrite, about=[config.files, new_type])
    outcome.check()
    first = [name for name in config.safety.taxonomy.labels if name not in config.safety.added]
    if new_type in first:
        raise ConfigError(
            f"{new_type} not added: expected a type that {adapter} does not have, got one of its first types "
            f"({', '.join(first)}). More data of it: the same command without --new-type, with a "
            "--recipe of few steps."
        )
    rule = extend.rule_from(policy, new_type) if policy is not None and new_type is not None else None
    taxonomy = (config.safety if new_type is None else extend.extended_config(config.safety, new_type)).taxonomy

    if new_type in config.safety.added:
        typer.echo(f"{new_type} is a type of {adapter} already: its branch is trained on, no other one is added.")
    safety = base(folder)
    metadata: dict[str, Any] = {name: value for name, value in config.metadata.items() if name != RUN}
    if new_type is not None:
        records = training.records(safety, taxonomy)
        extend.extend_safety(
            safety, records, new_type, rule, chosen.recipes[0], output_dir=training.runs, cache_dir=training.features
        )
        about: dict[str, Any] = {"data": [*training.data], "recipe": chosen.texts.get("stage1.yaml", "default")}
        if chosen.changes:
            about["recipe_changes"] = chosen.changes["stage1.yaml"]
        metadata["added"] = {**_added(metadata), new_type: about}
    elif remove_type is not None:
        extend.remove_type(safety, remove_type)
        metadata["added"] = {name: value for name, value in _added(metadata).items() if name != remove_type}
        if (metadata.get("calibration") or {}).get("types") == [remove_type]:
            metadata["calibration"] = metadata["calibration"]["before"]
    elif merge is not None:
        other = find_adapter(merge)
        extend.merge_types(safety, other)
        metadata["added"] = {**_added(read_adapter(other).config.metadata), **_added(metadata)}
    else:
        records = training.records(safety, taxonomy)
        train_safety(safety, records, chosen.recipes, None, training.runs, cache_dir=training.features)
        metadata |= {"trained_on": [*training.data], "trained_with": chosen.record()}
        metadata.pop("calibration", None)  # so are thresholds and temperature
    if distributed.rank() > 0:
        return
    if not outcome.save(safety, metadata, config.dtype):
        return
    types = ", ".join(safety.config.taxonomy.types)
    missing = [name for name in safety.config.taxonomy.types if name not in safety.thresholds]
    typer.echo(f"{out}: {types}.")
    if missing:
        typer.echo(f"Not calibrated for {', '.join(missing)}. Next: safety-modules calibrate {out} --benign FILE")


def refuse_without_extend(**options: object) -> None:
    """ConfigError where an option is given that only means something for a trained adapter."""
    if given := _given(options):
        raise ConfigError(f"no adapter to change: expected --extend with {given}, got none. Name it.")


def refuse_with_extend(**options: object) -> None:
    """ConfigError where an option is given that changing a trained adapter does not know."""
    if given := _given(options):
        raise ConfigError(f"options refused: expected none of {given} with --extend, got some. Leave them out.")


def _given(options: Mapping[str, object]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None)


def _recipes(training: Training, new_type: str | None) -> Chosen:
    from safety_modules.training.extend import RECIPE

    if new_type is not None and len(training.recipes) > 1:
        raise ConfigError(
            f"one recipe for a new type: expected one --recipe, got {len(training.recipes)}. Leave one out."
        )
    if new_type is None and not training.recipes:
        raise ConfigError(
            "no recipe: expected --recipe with --extend, got none. A trained adapter needs a lower learning rate and "
            "fewer steps than a fresh one: begin with a tenth of both."
        )
    return read_recipes(training.recipes, training.steps, training.settings, default=RECIPE)


def _added(metadata: dict[str, Any]) -> dict[str, Any]:
    found = metadata.get("added")
    return dict(found) if isinstance(found, dict) else {}
