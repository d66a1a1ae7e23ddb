"""The package's exceptions: everything it raises on purpose is a SafetyModulesError."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError

HALVES = re.compile("[\ud800-\udfff]")
"""Half of a character, or a byte that is no UTF-8 as Python holds it: what no UTF-8 file takes."""


def printable(text: str) -> str:
    """The text with an escape for what no UTF-8 file takes: bytes of a name that are none, halves of characters."""

    def escape(half: re.Match[str]) -> str:
        code = ord(half.group())
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return text if text.isascii() else HALVES.sub(escape, text)


class SafetyModulesError(Exception):
    """Base class. Messages read: what happened: expected X, got Y. Next step. They are always valid UTF-8."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(SafetyModulesError):
    """A configuration, or a tensor handed to the modules, does not fit."""


class AttachError(SafetyModulesError):
    """Safety modules cannot be attached to, or taken off, this model."""


class PromptError(SafetyModulesError):
    """The prompt has no place for the safe hint, or no question can be found in it."""


class GuardError(SafetyModulesError):
    """A guarded call cannot be served as asked; nothing was run unguarded instead."""


class PolicyError(SafetyModulesError):
    """A policy is malformed, does not fit the taxonomy, or cannot decide."""


class DataError(SafetyModulesError):
    """A record, an image or a label cannot be used as it is."""


class AdapterError(SafetyModulesError):
    """An adapter folder was refused, or could not be written.

    Attributes:
        problems: every problem found, one sentence each, in the order they were found.
    """

    def __init__(self, where: object, problems: Sequence[str]) -> None:
        self.where = str(where)
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"adapter {self.where} refused, {count}:{lines}")

    def __reduce__(self) -> tuple[type["AdapterError"], tuple[str, list[str]]]:
        return type(self), (self.where, self.problems)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """` Did you mean 'hint'?` for a word that is nearly a known one; empty where none is near."""
    near = get_close_matches(str(word), [*known], n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def validation_problems(error: ValidationError, limit: int = 50, model: type[BaseModel] | None = None) -> list[str]:
    """Pydantic's findings as one line each: `lora.r: Input should be greater than 0, got -1`.

    Args:
        error: what pydantic raised.
        limit: lines at most; how many were left out is the last line.
        model: what was validated: an unknown key is then told with the known one that it is nearly.
    """
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "value"
        if item["type"] == "extra_forbidden":
            near = _near(item["loc"], model)
            lines.append(f"unknown key {where!r}: this version does not know it.{near} Remove it or upgrade.")
        elif item["type"] == "missing":
            lines.append(f"missing key {where!r}: it is required.")
        else:
            got = repr(item.get("input"))
            got = got if len(got) <= 80 else got[:77] + "..."
            known = re.findall(r"'([^']*)'", item["ctx"]["expected"]) if item["type"] == "literal_error" else []
            lines.append(f"{where}: {item['msg']}, got {got}.{did_you_mean(item.get('input'), known)}")
    if len(lines) > limit:
        lines[limit:] = [f"... and {len(lines) - limit} more."]
    return lines


def _near(path: Sequence[int | str], model: type[BaseModel] | None) -> str:
    """The known key beside an unknown one, found by walking down the model's fields."""
    fields = {} if model is None else model.model_fields
    for part in path[:-1]:
        if part in fields:
            kinds = [fields[str(part)].annotation, *get_args(fields[str(part)].annotation)]
            inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
            fields = inner[0].model_fields if inner else {}
    return did_you_mean(path[-1], fields)
