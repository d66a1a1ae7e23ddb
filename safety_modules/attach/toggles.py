"""What is switched on: `safety=` of a call, and names given to `enable`, `disable` and `disabled`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safety_modules.errors import GuardError, did_you_mean

Switch = bool | Sequence[bool]
"""For all rows of a call, or one for each. numpy's and torch's booleans, and 0 and 1, are read as what they say."""
Switches = Switch | Mapping[str, Switch]
"""For all defences, or by the name of each; those not named stay on."""


def read_switches(safety: Any, names: Sequence[str]) -> dict[str, bool | list[bool]]:
    """What `safety=` says about each defence: one bool for all rows, or one per row.

    Raises:
        GuardError: anything else, such as None or a word: whether to guard is not guessed; or an unknown name.
    """
    by_name = safety if isinstance(safety, Mapping) and safety else dict.fromkeys(names, safety)
    found = {name: _read(by_name.get(name, True)) for name in names}
    unknown = [name for name in by_name if name not in names]
    if unknown or None in found.values():
        near = "".join(did_you_mean(name, names) for name in unknown)
        raise GuardError(
            "call not guarded: expected safety to be True, False or a list with one of them per row, or any of these "
            f"by the name of a defence ({', '.join(names)}), got {safety!r}.{near} safety=False is the base's own "
            "answer."
        )
    return {name: on for name, on in found.items() if on is not None}


def check_names(given: Iterable[Any], names: Sequence[str]) -> None:
    """Raises GuardError for a name that no attached defence has."""
    for name in given:
        if name not in names:
            raise GuardError(
                f"no such defence: expected one of {', '.join(names)}, got {name!r}.{did_you_mean(name, names)} "
                "Name one that is attached."
            )


def _read(switch: Any) -> bool | list[bool] | None:
    values = switch.tolist() if hasattr(switch, "tolist") else switch  # numpy and torch: to Python's own
    found = [_one(value) for value in values] if isinstance(values, list | tuple) else _one(values)
    if isinstance(found, list):
        flags = [flag for flag in found if flag is not None]
        return flags if len(flags) == len(found) else None
    return found


def _one(value: Any) -> bool | None:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    return bool(value) if isinstance(value, int) and value in (0, 1) else None
