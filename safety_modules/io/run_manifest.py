"""Is this the same run? A file in a run's folder says what identifies the run, so that no other one is added to it.

    KEY = "run.json"

    def train(folder, recipe, base):
        key = {"recipe": recipe.model_dump(mode="json"), "base": base.fingerprint()}
        begin_run(folder / KEY, key)  # ConfigError "not resumed: expected the recipe that ..., got another recipe."

Every value stands under the name by which an error tells a person what differs, so parts that are told apart are
entries of their own: `"system ecso": {...}`, `"order of systems": [...]`. What a later call may add to a run, such as
one more judge, goes into `growing`; what is only noted, such as versions of libraries, is a `session`. Where one of
several processes writes, all of them `check_run`, and that one begins.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_modules.errors import ConfigError, SafetyModulesError
from safety_modules.io.files import write_json

GROWING, SESSIONS = "growing", "sessions"
"""Names in the file beside those of the key."""


def check_run(
    path: Path,
    key: Mapping[str, Any],
    growing: Mapping[str, Any] | None = None,
    *,
    error: type[SafetyModulesError] = ConfigError,
) -> dict[str, Any]:
    """Refuse another run's folder; nothing is written.

    Args:
        path: of the manifest, in the run's folder; it need not be there yet.
        key: what must be equal for the run to go on, by the names an error gives; JSON-able. One that is missing, there
            or here, counts as None.
        growing: what must be equal where the run has it already, likewise.
        error: what is raised.

    Returns:
        What the manifest holds; empty where there is none.

    Raises:
        SafetyModulesError: of that kind: the folder holds another run, named by what differs; or the manifest cannot
            be read.
    """
    try:
        known = json.loads(path.read_bytes()) if path.exists() else {}
    except (OSError, ValueError) as fault:
        raise error(f"run not read: expected {path} to be JSON, got {fault}. Use another folder.") from fault
    if not isinstance(known, dict):
        raise error(f"run not read: expected a JSON object in {path}, got something else. Use another folder.")
    if not known:
        return known
    if not isinstance(known.get(GROWING, {}), dict):
        raise error(f"run not read: expected a JSON object under {GROWING!r} in {path}, got none. Use another folder.")
    wanted, more = _as_json(key), _as_json(growing or {})
    before, names = known.get(GROWING, {}), dict.fromkeys([*wanted, *known])
    differ = [name for name in names if name not in (GROWING, SESSIONS) and known.get(name) != wanted.get(name)]
    differ += [name for name in more if name in before and before[name] != more[name]]
    if differ:
        raise error(
            f"not resumed: expected the {', '.join(differ)} that {path.parent} was begun with, got another "
            f"{', another '.join(differ)}. Use the same, or another folder."
        )
    return known


def begin_run(
    path: Path,
    key: Mapping[str, Any],
    growing: Mapping[str, Any] | None = None,
    session: Mapping[str, Any] | None = None,
    *,
    error: type[SafetyModulesError] = ConfigError,
) -> list[Any]:
    """Go on with a run, or begin it: make its folder and write its manifest, whole.

    Args:
        path: as in `check_run`.
        key: as in `check_run`.
        growing: as in `check_run`; what is new in it is added.
        session: what this call runs on; noted, not compared.
        error: what is raised.

    Returns:
        Every session so far, this one last.

    Raises:
        SafetyModulesError: as `check_run`, or the folder cannot be written.
    """
    assert not {GROWING, SESSIONS} & key.keys(), "names of the file itself"
    known = check_run(path, key, growing, error=error)
    note = known or _as_json(key)
    if growing is not None:
        note = {**note, GROWING: {**note.get(GROWING, {}), **_as_json(growing)}}
    if session is not None:
        note = {**note, SESSIONS: [*note.get(SESSIONS, []), _as_json(session)]}
    if note != known or not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, note)
        except OSError as fault:
            raise error(f"run not begun: expected a folder at {path.parent}, got {fault}. Name another.") from fault
    return list(note.get(SESSIONS, []))


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it reads from a file: tuples are lists, every key is text."""
    found: dict[str, Any] = json.loads(json.dumps(value))
    return found
