"""The package's exceptions: everything it raises on purpose is a SafetyModulesError."""

import re
from collections.abc import Sequence

from pydantic import ValidationError

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


def validation_problems(error: ValidationError, limit: int = 50) -> list[str]:
    """Pydantic's findings as one line each: `lora.r: Input should be greater than 0, got -1`.

    Args:
        error: what pydantic raised.
        limit: lines at most; how many were left out is the last line.
    """
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "value"
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {where!r}: this version does not know it. Remove it or upgrade.")
        elif item["type"] == "missing":
            lines.append(f"missing key {where!r}: it is required.")
        else:
            got = repr(item.get("input"))
            got = got if len(got) <= 80 else got[:77] + "..."
            lines.append(f"{where}: {item['msg']}, got {got}.")
    if len(lines) > limit:
        lines[limit:] = [f"... and {len(lines) - limit} more."]
    return lines
