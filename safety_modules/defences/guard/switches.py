"""What `safety=` may be: one switch for all rows of a call, or one for each."""

from collections.abc import Sequence
from typing import Any

from safety_modules.errors import GuardError

Switch = bool | Sequence[bool]
"""As annotated; numpy's and torch's booleans, and 0 and 1, are read as what they say."""


def read_switches(safety: Any) -> bool | list[bool]:
    """One bool for all rows, or one per row.

    Raises:
        GuardError: anything else, such as None or a word: whether to guard is not guessed.
    """
    values = safety.tolist() if hasattr(safety, "tolist") else safety  # numpy and torch: to Python's own
    found = [_read(value) for value in values] if isinstance(values, list | tuple) else _read(values)
    if found is None or (isinstance(found, list) and None in found):
        raise GuardError(
            f"call not guarded: expected safety to be True, False or a list with one of them per row, got {safety!r}. "
            "safety=False is the base's own answer."
        )
    return found  # type: ignore[return-value]  # no None is left


def _read(value: Any) -> bool | None:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    return bool(value) if isinstance(value, int) and value in (0, 1) else None
