"""Audits that the page was asked for: each has a number, and a report that lives as long as the page is served."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from safety_modules.audit import audit
from safety_modules.audit.report import REPORT, write_report
from safety_modules.errors import DataError
from safety_modules.policy.policy import Policy


class Audited(NamedTuple):
    """An audit that is done: its number, and its summary."""

    number: int
    summary: dict[str, Any]


class Audits:
    """Looks through folders with a base's vision tower.

    Args:
        base: folder of the base.
        adapters: folder of each, by name.
        place: folder for what is found.
    """

    def __init__(self, base: str | PathLike[str], adapters: Mapping[str, str | PathLike[str]], place: Path) -> None:
        self._base, self._adapters, self._place, self._count = base, adapters, place, 0

    def run(self, folder: str, adapter: str, policy: Policy, question: str = "") -> Audited:
        """Judge every picture of a folder on this machine, or of a data file.

        Args:
            folder: its path.
            adapter: name of the one that judges.
            policy: fitted to it; says what is flagged.
            question: what is asked about each picture; empty = pictures alone.

        Raises:
            SafetyModulesError: the folder, or what is in it, cannot be read.
        """
        data = Path(folder.strip()).expanduser()
        if not folder.strip() or not data.exists():
            raise DataError(f"nothing to audit: expected a folder on this machine, got {folder!r}. Check the path.")
        self._count += 1
        number = self._count
        out = self._place / str(number)
        # In this process: to start others for a folder that somebody waits for takes longer than what they save.
        found = audit(
            data,
            out,
            self._base,
            self._adapters[adapter],
            question=question.strip() or None,
            policy=policy,
            workers=0,
            progress=False,
        )
        write_report(out)
        return Audited(number, found)

    def report(self, number: int) -> Path:
        """The page of an audit. Raises DataError: there is none."""
        path = self._place / str(number) / REPORT
        if not path.is_file():
            raise DataError(f"no such audit: expected the number of one that is done, got {number}. Run it first.")
        return path
