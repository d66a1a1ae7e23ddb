"""VLGuard's train.json and test.json (arXiv 2402.02207): pictures, safe or not, with instructions and responses.

Its categories become types and levels by a table, `safety_modules/data/vlguard.yaml`, or one of the user's.
"""

from collections.abc import Iterator
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from safety_modules.errors import ConfigError, DataError, validation_problems
from safety_modules.io.strict import load_yaml
from safety_modules.records.formats.base import Asked, Entry, Sample
from safety_modules.records.formats.conversations import TAGGED, JsonList, words
from safety_modules.records.source import Source, as_object
from safety_modules.taxonomy import CLEAN

LEFT_OUT = "unsafe instructions about safe pictures (the table of categories says leave_out)"


class Label(BaseModel):
    """A type and a level of the taxonomy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    level: str


class Subcategory(Label):
    """What an unsafe picture of a subcategory counts as."""

    category: str
    subcategory: str


class Categories(BaseModel):
    """The table.

    Attributes:
        unsafe_instruction: what an unsafe instruction about a safe picture counts as: VLGuard names no category for
            it, so it is left out unless a label is given here.
        unsafe_pictures: labels of unsafe pictures.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unsafe_instruction: Literal["leave_out"] | Label
    unsafe_pictures: tuple[Subcategory, ...]

    @field_validator("unsafe_pictures")
    @classmethod
    def _once(cls, rows: tuple[Subcategory, ...]) -> tuple[Subcategory, ...]:
        names = [(row.category, row.subcategory) for row in rows]
        twice = sorted({f"{a} / {b}" for a, b in names if names.count((a, b)) > 1})
        if twice:
            raise ValueError(f"listed twice: {', '.join(twice)}")
        return rows

    def label(self, category: Any, subcategory: Any) -> Label:
        """The label of an unsafe picture. Raises DataError for what the table does not list."""
        for row in self.unsafe_pictures:
            if (row.category, row.subcategory) == (category, subcategory):
                return row
        raise DataError(
            f"unmapped category: expected one that the table of categories lists, got {category!r} / "
            f"{subcategory!r}. Add it to a table of your own."
        )


def read_categories(path: str | PathLike[str] | None) -> Categories:
    """The table in a YAML file; None = the shipped one.

    Raises:
        ConfigError: naming every problem.
    """
    shipped = resources.files("safety_modules").joinpath("data", "vlguard.yaml")
    name = path or "data/vlguard.yaml"
    try:
        text = (shipped if path is None else Path(path)).read_text(encoding="utf-8")
        return Categories.model_validate(load_yaml(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"table of categories {name} not read: expected a YAML file, got {error}. Correct it."
        ) from error
    except ValidationError as error:
        lines = "".join(f"\n  - {problem}" for problem in validation_problems(error))
        raise ConfigError(f"table of categories {name} refused:{lines}\nCorrect the file.") from error


class VLGuard(JsonList):
    name = "vlguard"
    rule = "a file named `*.json`; every object has `instr-resp`, none `conversations`"
    options = ("image_dir", "image_key", "categories")
    key, not_key = "instr-resp", "conversations"

    def entries(self, source: Source, pictures: bool = True) -> Iterator[Entry]:
        """Objects, each with the table that labels it."""
        table = read_categories(source.options.categories)
        for entry in super().entries(source, pictures):
            yield entry._replace(value=(entry.value, table)) if entry.where else entry

    def sample(self, value: tuple[Any, Categories], where: str, source: Source) -> Sample:
        item, table = as_object(value[0]), value[1]
        pairs = item.get("instr-resp")
        if not isinstance(pairs, list) or not pairs:
            raise DataError(f"instr-resp: expected a list of instructions, got {pairs!r}.")
        asked = []
        for pair in map(as_object, pairs):
            kind = next((key for key in pair if key.endswith("instruction")), "")
            label, meant = self._label(item, kind, table, source), pair.get("response")
            question, answer = words(pair.get(kind)), meant if isinstance(meant, str) else None
            if isinstance(label, Label):
                # Where one picture is clean and risky by what is asked, the label is no label of the picture alone.
                bound = item.get("safe") is True and isinstance(table.unsafe_instruction, Label)
                asked.append(Asked(question, answer, label.type, label.level, None, bound))
            else:
                asked.append(Asked(question, answer, left_out=LEFT_OUT if label == "leave_out" else None))
        return Sample(source.pictures(item, where), asked)

    def check(self, value: tuple[Any, Categories], sample: Sample, source: Source) -> None:
        item, table = value
        if not sample.pictures:
            raise DataError(f"image: expected a file name, got {item.get('image')!r}.")
        if not isinstance(item.get("safe"), bool):
            raise DataError(f"safe: expected true or false, got {item.get('safe')!r}.")
        kinds = ["safe_instruction", "unsafe_instruction"] if item["safe"] else ["instruction"]
        if not item["safe"]:
            table.label(item.get("harmful_category"), item.get("harmful_subcategory"))
        for pair in item["instr-resp"]:
            given = [kind for kind in kinds if isinstance(pair.get(kind), str) and pair[kind].strip()]
            if len(given) != 1:
                raise DataError(f"instr-resp: expected one of {', '.join(kinds)} with words, got {sorted(pair)}.")
            if "<image>" in pair[given[0]]:
                raise DataError(TAGGED)
            if not isinstance(pair.get("response"), str | None):
                raise DataError(f"response: expected words, got {pair['response']!r}.")

    def _label(self, item: dict[str, Any], kind: str, table: Categories, source: Source) -> Label | str | None:
        """What a kind of instruction about the picture counts as; None for what no label is known of."""
        if item.get("safe") is True:
            clean = Label(type=CLEAN, level=source.taxonomy.safe_level)
            return {"safe_instruction": clean, "unsafe_instruction": table.unsafe_instruction}.get(kind)
        if item.get("safe") is not False:
            return None
        try:
            return table.label(item.get("harmful_category"), item.get("harmful_subcategory"))
        except DataError:
            return None
