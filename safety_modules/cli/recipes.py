"""What `train` trains with, the same for a fresh adapter and for one that is extended: data, recipes, folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from safety_modules.cli.options import Cache, Overwrite
from safety_modules.errors import ConfigError
from safety_modules.paths import recipe_file

if TYPE_CHECKING:
    from safety_modules.records import Record
    from safety_modules.training import Recipe


class Chosen(NamedTuple):
    """Recipes of the stages as they will be trained, the texts of their files, and what the command line changed in
    them; both by `stage1.yaml` and `stage2.yaml`.
    """

    recipes: "list[Recipe]"
    texts: dict[str, str]
    changes: dict[str, dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """For an adapter's metadata."""
        return {"recipes": self.texts, **({"recipe_changes": self.changes} if self.changes else {})}


class Training(NamedTuple):
    """What the command line says about a training (see `options.grouped`)."""

    data: Annotated[
        list[str] | None,
        typer.Option(help="Records; repeat for several, which are one set. Default: pocket's training mix."),
    ] = None
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="A stage's YAML file, or a shipped one's name (llava-1.5-7b/stage1); repeat for both stages."
        ),
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of each stage, instead of the recipe's.")
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Another value in the recipes, or in one stage's: --set stage2.batch_size=8. Repeat.",
        ),
    ] = None
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder for logs, plots, features and checkpoints; an interrupted run in it goes on."),
    ] = None
    cache: Cache = None
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Train without bad records; RUNS/left-out.jsonl lists them.")
    ] = False
    overwrite: Overwrite = False

    @property
    def left_out(self) -> Path | None:
        """The file that lists bad records; None = data with any is refused."""
        return self.runs / "left-out.jsonl" if self.runs and self.skip_bad else None

    @property
    def features(self) -> Path | None:
        """Folder of vision features."""
        return self.cache or (self.runs and self.runs / "features")

    def recipes(self, default: "Sequence[str | Recipe]" = ()) -> Chosen:
        """The recipes as they will be trained (see `read_recipes`); the default where none is named."""
        return read_recipes(self.recipe or default, self.steps, self.settings or ())


def read_recipes(names: "Sequence[str | Recipe]", steps: int | None = None, settings: Sequence[str] = ()) -> Chosen:
    """Recipes (or their paths, or names of shipped ones) with other steps, and with settings: `key=value` for every
    stage that knows the key, or `stage2.key=value`.

    Raises:
        ConfigError: no such file, a recipe that is refused, or a change that no recipe takes.
    """
    from safety_modules.training.recipe import Recipe

    paths = [None if isinstance(name, Recipe) else recipe_file(name) for name in names]
    found = [name if isinstance(name, Recipe) else Recipe.from_yaml(recipe_file(name)) for name in names]
    changes = _changes([recipe.stage for recipe in found], steps, settings)
    for recipe, change in zip(found, changes, strict=True):
        if steps is not None and recipe.evaluate_every > steps:  # then it is measured at the last step
            change.setdefault("evaluate_every", steps)
    keys = [f"stage{recipe.stage}.yaml" for recipe in found]
    return Chosen(
        [recipe.changed(**change) if change else recipe for recipe, change in zip(found, changes, strict=True)],
        {key: path.read_text(encoding="utf-8") for key, path in zip(keys, paths, strict=True) if path},
        {key: change for key, change in zip(keys, changes, strict=True) if change},
    )


def value_of(text: str) -> Any:
    """What stands behind `--set key=`: YAML, or the text itself where it is none."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def recipe_with(kind: type[Any], settings: Sequence[str]) -> Any:
    """A recipe of this kind with its defaults, but for these `key=value`. Raises ConfigError: it does not take them."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in kind.model_fields:
            raise ConfigError(
                f"--set refused: expected key=value with one of {', '.join(kind.model_fields)}, got {setting!r}. "
                "Correct it."
            )
        values[name] = value_of(text)
    return validated("recipe", kind, values)


def validated(what: str, kind: type[Any], values: dict[str, Any]) -> Any:
    """One of this kind with these values. Raises ConfigError: it does not take them; `what` names it there."""
    from pydantic import ValidationError

    from safety_modules.errors import validation_problems

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(validation_problems(error))
        raise ConfigError(f"{what} refused: expected other settings, got {problems} Change the options.") from error


def without_text(chosen: Chosen, records: "Sequence[Record]") -> Chosen:
    """Recipes nobody named, for data that may have no records without a picture: then stage II goes without them."""
    wanting = [recipe for recipe in chosen.recipes if recipe.stage == 2 and recipe.text_only_share]
    if not wanting or any(record.image is None for record in records):
        return chosen
    typer.echo(
        f"No records without a picture in the data: stage II is trained without them (text_only_share 0, not "
        f"{wanting[0].text_only_share:g}). What the model says to words alone is then not trained for."
    )
    change = {"text_only_share": 0.0}
    return chosen._replace(
        recipes=[recipe.changed(**change) if recipe in wanting else recipe for recipe in chosen.recipes],
        changes={**chosen.changes, "stage2.yaml": {**chosen.changes.get("stage2.yaml", {}), **change}},
    )


def _changes(stages: Sequence[int], steps: int | None, settings: Sequence[str]) -> list[dict[str, Any]]:
    from safety_modules.training.recipe import STAGE_2_ONLY

    found: list[dict[str, Any]] = [{} if steps is None else {"steps": steps} for _ in stages]
    for setting in settings:
        name, equals, text = setting.partition("=")
        stage, dot, key = name.rpartition(".")
        wanted = {"": set(stages), "stage1": {1}, "stage2": {2}}.get(stage)
        if not equals or not key or wanted is None:
            raise ConfigError(f"--set refused: expected key=value or stage2.key=value, got {setting!r}. Correct it.")
        if not dot and key in STAGE_2_ONLY and 2 in stages:
            wanted = {2}
        if not wanted & set(stages):
            raise ConfigError(
                f"--set refused: expected a stage that is trained ({stages}), got {setting!r}. Correct it."
            )
        value = value_of(text)
        for place, number in enumerate(stages):
            if number in wanted:
                found[place][key] = value
    return found
