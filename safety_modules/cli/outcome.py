"""Where a finished training goes: no adapter is replaced unasked, and none is lost to a full disk."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from safety_modules.errors import AdapterError, ConfigError
from safety_modules.io.files import sha256_of
from safety_modules.io.places import check_writable

if TYPE_CHECKING:
    from safety_modules.attach.attachment import SafetyAttachment

RUN = "run"
"""Key of the metadata that says which finished run an adapter was written by."""


class Outcome:
    """The folder `out` that a training is saved to.

    Args:
        out: the folder; only with `overwrite` may another run's adapter in it be replaced.
        runs: the run's own folder, if it has one, where it trains these stages.
        about: what the adapter depends on beside the run's weights; JSON-able.
    """

    def __init__(
        self, out: Path, runs: Path | None, stages: Sequence[int] = (), overwrite: bool = False, about: Any = None
    ) -> None:
        self.out, self._runs, self._stages, self._overwrite, self._about = out, runs, stages, overwrite, about

    def check(self) -> None:
        """Refuse, before any work, a place that could not be written to or must not be.

        Raises:
            AdapterError: it holds something other than an adapter, or the disk refuses.
            ConfigError: it holds an adapter that this run did not write, and nobody asked to replace it.
        """
        from safety_modules.adapter.files import check_target
        from safety_modules.adapter.format import CONFIG_FILE

        check_target(self.out)
        check_writable(self._runs)
        if os.path.lexists(self.out / CONFIG_FILE) and not self._overwrite and self.known() is None:
            resume = "" if self._runs is None else f" (nothing that {self._runs} has finished)"
            raise ConfigError(
                f"adapter not replaced: expected a new --out, got {self.out} with a finished adapter{resume}. Name "
                "another folder, or replace it with --overwrite."
            )

    def known(self) -> dict[str, Any] | None:
        """Metadata of the adapter that this run, finished, has written to `out` already; None where it has not."""
        from safety_modules.adapter.folder import read_adapter

        digest = self._digest()
        try:
            metadata = read_adapter(self.out).config.metadata
        except AdapterError:
            return None
        return metadata if digest is not None and metadata.get(RUN) == digest else None

    def save(self, safety: "SafetyAttachment", metadata: Mapping[str, Any], dtype: str = "float16") -> bool:
        """Write the adapter, unless it is there already. Returns whether it was written.

        Raises:
            ConfigError: it could not be; the message says where it was kept instead.
            AdapterError: it is no valid adapter.
        """
        if self.known() is not None:
            typer.echo(f"{self.out}: already finished, nothing done; the adapter is left as it is.")
            return False
        digest = self._digest()
        metadata = {**metadata, **({} if digest is None else {RUN: digest})}
        try:
            safety.save_pretrained(self.out, dtype=dtype, metadata=metadata)
        except (OSError, AdapterError) as error:
            kept = self._keep(safety, dtype, metadata)
            if kept is None:
                raise
            reason = error.problems[0] if isinstance(error, AdapterError) else f"got {error}."
            raise ConfigError(
                f"adapter not written to {self.out}: expected a place to write to, {reason} The training is not lost: "
                f"the adapter is in {kept}. Copy it from there."
            ) from error
        return True

    def _keep(self, safety: "SafetyAttachment", dtype: str, metadata: Mapping[str, Any]) -> Path | None:
        """The adapter in another place, wherever there is one."""
        places = [] if self._runs is None else [self._runs / "adapter"]
        for place in (*places, Path(tempfile.mkdtemp(prefix="safety-modules-")) / self.out.name):
            try:
                return Path(safety.save_pretrained(place, dtype=dtype, metadata=metadata))
            except (OSError, AdapterError):
                continue
        return None

    def _digest(self) -> str | None:
        """Of the final weights of every stage; None while one has none."""
        from safety_modules.training.checkpoints import FINAL

        files = [] if self._runs is None else [self._runs / f"stage{stage}" / FINAL for stage in self._stages]
        if not files or not all(file.is_file() for file in files):
            return None
        weights = [sha256_of(file) for file in files]
        return hashlib.sha256(json.dumps([weights, self._about]).encode()).hexdigest()
