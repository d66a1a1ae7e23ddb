"""`safety-modules train --extend ADAPTER`: a trained adapter, with a type more, a type less, or more data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from safety_modules.cli.options import attach, load_records
from safety_modules.errors import ConfigError

if TYPE_CHECKING:
    from safety_modules.records import Record
    from safety_modules.taxonomy import Taxonomy


class Training(NamedTuple):
    """What to train with: the options of `train` that mean the same with and without --extend."""

    data: str | None
    format: str | None
    images: Path | None
    recipes: Sequence[Path]
    runs: Path | None
    cache: Path | None

    def records(self, taxonomy: "Taxonomy") -> "list[Record]":
        """The records of the data."""
        assert self.data is not None
        return load_records(self.data, self.images, self.format, taxonomy)


def extend_adapter(
    adapter: Path,
    out: Path,
    model: Path | None,
    training: Training,
    *,
    new_type: str | None = None,
    remove_type: str | None = None,
    merge: Path | None = None,
    policy: Path | None = None,
) -> None:
    """Change a trained adapter and save it.

    Raises:
        ConfigError: options that do not go together, or one that is missing.
    """
    from safety_modules.adapter import read_adapter
    from safety_modules.training import processes

    changes = {"--new-type": new_type, "--remove-type": remove_type, "--merge": merge}
    verbs = [option for option, value in changes.items() if value is not None]
    if len(verbs) > 1:
        raise ConfigError(f"one change at a time: expected one of {', '.join(verbs)}, got all. Run it once for each.")
    needs_data = remove_type is None and merge is None
    if needs_data != (training.data is not None):
        wanted, got = ("--data", "none") if needs_data else ("no --data", "some")
        raise ConfigError(f"data refused: expected {wanted} with {(verbs or ['--extend'])[0]}, got {got}. Correct it.")
    if policy is not None and new_type is None:
        raise ConfigError("a policy for nothing: expected --new-type with --policy, got none. Name the type.")
    config = read_adapter(adapter).config
    safety = attach(model, adapter)
    metadata: dict[str, Any] = {name: value for name, value in config.metadata.items() if name != "calibration"}
    if new_type is not None:
        _add(safety, new_type, training, policy)
        recipe = training.recipes[0].read_text(encoding="utf-8") if training.recipes else "default"
        added = {"data": training.data, "recipe": recipe}
        metadata["added"] = {**_added(metadata), new_type: added}
    elif remove_type is not None:
        from safety_modules.training.extend import remove_type as remove

        remove(safety, remove_type)
        metadata["added"] = {name: value for name, value in _added(metadata).items() if name != remove_type}
    elif merge is not None:
        from safety_modules.training.extend import merge_types

        merge_types(safety, merge)
        metadata["added"] = {**_added(read_adapter(merge).config.metadata), **_added(metadata)}
    else:
        _train_on(safety, training)
        metadata["trained_on"] = training.data
    if processes.rank() > 0:
        return
    safety.save_pretrained(out, dtype=config.dtype, metadata=metadata)
    types = ", ".join(safety.config.taxonomy.types)
    typer.echo(f"{out}: {types}. Not calibrated for these yet. Next: safety-modules calibrate {out} --benign FILE")


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


def _add(safety: Any, name: str, training: Training, policy: Path | None) -> None:
    from safety_modules.training.extend import RECIPE, extend_safety, extended_config, rule_from

    if len(training.recipes) > 1:
        raise ConfigError(
            f"one recipe for a new type: expected one --recipe, got {len(training.recipes)}. Leave one out."
        )
    records = training.records(extended_config(safety.config, name).taxonomy)
    rule = None if policy is None else rule_from(policy, name)
    recipe = training.recipes[0] if training.recipes else RECIPE
    extend_safety(safety, records, name, rule, recipe, output_dir=training.runs, cache_dir=training.cache)


def _train_on(safety: Any, training: Training) -> None:
    from safety_modules.training import train_safety

    if not training.recipes:
        raise ConfigError(
            "no recipe: expected --recipe with --extend, got none. A trained adapter needs a lower learning rate and "
            "fewer steps than a fresh one: begin with a tenth of both."
        )
    records = training.records(safety.config.taxonomy)
    train_safety(safety, records, list(training.recipes), None, training.runs, cache_dir=training.cache)


def _added(metadata: dict[str, Any]) -> dict[str, Any]:
    found = metadata.get("added")
    return dict(found) if isinstance(found, dict) else {}
