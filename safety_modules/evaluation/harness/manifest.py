"""`manifest.json`: which run a folder holds, so that nothing else is added to it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_modules.errors import ConfigError
from safety_modules.io.files import write_whole

NAME = "manifest.json"


def begin(folder: Path, key: Mapping[str, Any], judges: Mapping[str, Any], session: Mapping[str, Any]) -> list[Any]:
    """Note, or check, which run the folder holds. Other judges may be added to a run; other systems may not.

    Args:
        folder: of the run; made where it is missing.
        key: what must be equal for a run to go on, each value by the name an error gives it. JSON-able.
        judges: description of each judge, by name.
        session: what this call runs on, such as library versions; noted, not compared.

    Returns:
        Every session so far, this one last.

    Raises:
        ConfigError: the folder holds another run; the message names what differs.
    """
    key, judges = json.loads(json.dumps(key)), json.loads(json.dumps(judges))
    known = _read(folder / NAME)
    differ = [] if known is None else _differences(known.get("run"), key)
    known = known or {}
    known_judges = known.get("judges", {})
    differ += [f"judge {name}" for name in judges if name in known_judges and known_judges[name] != judges[name]]
    if differ:
        raise ConfigError(
            f"not resumed: expected the run that {folder} was begun with, got another {', another '.join(differ)}. "
            "Use the same, or another --out."
        )
    sessions = [*known.get("sessions", []), session]
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()
    note = {"run": key, "judges": {**known_judges, **judges}, "sessions": sessions}
    text = json.dumps(note, indent=1, allow_nan=False) + "\n"
    write_whole(folder / NAME, lambda file: file.write(text.encode()))
    return sessions


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"run not read: expected {path} to be JSON, got {error}. Use another --out.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"run not read: expected a JSON object in {path}, got something else. Use another --out.")
    return value


def _differences(known: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Names of what differs; where both values are objects, of the entries that do."""
    known = known if isinstance(known, dict) else {}
    found = []
    for name, value in wanted.items():
        before = known.get(name)
        if before == value:
            continue
        if name == "systems" and isinstance(before, dict):
            found += [f"system {key}" for key in {**before, **value} if before.get(key) != value.get(key)]
            found += [] if list(before) == list(value) or set(before) != set(value) else ["order of systems"]
        else:
            found.append(name)
    return found
