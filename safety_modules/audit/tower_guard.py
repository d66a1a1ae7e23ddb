"""Decoded pictures to verdicts: tower, safety modules, and the policy where a rule fires; in batches, as arrays."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.format import CONFIG_FILE
from safety_modules.adapter.hub import find_adapter
from safety_modules.audit.decode import Decoded, Pixels, TilePixels
from safety_modules.backbones.tower import open_tower
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.guard import Guard, check_tower
from safety_modules.defences.guard.judge import decide, head_output, look, rows_of
from safety_modules.defences.guard.modules import SafetyModules, head_class
from safety_modules.policy.outside import Calibrated
from safety_modules.policy.policy import Policy
from safety_modules.policy.scores import HeadOutput
from safety_modules.training.corpus import QuestionEmbeddings

NO_QUESTION = "no question: expected one beside the picture, because this adapter's head cannot judge a picture alone."
NOT_FINITE = "no verdict: expected finite probabilities, got others. Check the picture and the adapter."
FRAMES = ("frame", "frames_judged", "frames")
"""Columns: the frame a verdict is of, how many were judged, how many there are."""


class Started(NamedTuple):
    """Pictures that are being judged."""

    output: HeadOutput  # for each frame of each picture, for every reading (`question_readings`) of its question
    pictures: Sequence[Decoded]
    readings: list[int]  # of each picture's question


class Verdicts(NamedTuple):
    """N verdicts, as arrays."""

    types: np.ndarray  # probabilities (N, types + 1), clean last: see `scores.Judgements`
    levels: np.ndarray  # probabilities (N, levels)
    type: np.ndarray  # names
    level: np.ndarray  # names
    rule: np.ndarray  # that fired, or None
    risk: np.ndarray
    finite: np.ndarray  # whether the probabilities are numbers
    attention: np.ndarray  # (N, types, rows, columns) of the patches; float32
    frames: np.ndarray  # (N, 3): see `FRAMES`
    outside: np.ndarray  # p-values, see `Verdict.outside`; NaN where it is not known, null in the file


class TowerGuard:
    """The vision tower of a base, in that dtype, with an adapter's safety modules, thresholds and policy."""

    def __init__(self, base: Path, adapter: str, policy: Policy | None, device: str, dtype: torch.dtype) -> None:
        folder = Path(find_adapter(adapter))
        loaded = read_adapter(folder)
        guard = loaded.guard
        self.config: SafetyConfig = guard.design
        self.backbone = open_tower(base, dtype, device, whole=self.config.words is not None)
        self.fingerprint = self.backbone.fingerprint()
        loaded.check_base(self.backbone.fingerprint, self.backbone.sizes, self.backbone.pixel_settings())
        check_tower(self.backbone, self.config)
        self.digest = hashlib.sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
        self.thresholds, self.temperature = dict(guard.thresholds), guard.temperature
        self.policy = (policy or Policy.default(self.config.taxonomy, guard.rules)).completed(guard.rules)
        self.policy.check(self.config.taxonomy)
        self.limits = self.policy.limits(self.config.taxonomy, self.thresholds)
        self.modules = SafetyModules(self.config, self.backbone.sizes).to(self.backbone.device).eval()
        self.modules.load_state_dict(loaded.part(Guard.kind).tensors)
        self.needs_question = head_class(self.config).needs_question
        kind = Pixels if self.backbone.sizes.tile is None else TilePixels
        self.pixels: Any = kind(self.backbone.processor.image_processor)
        self._embed = QuestionEmbeddings(self.backbone, self.config)

    def fault(self, picture: Decoded, question: str | None) -> str | None:
        """Why there can be no verdict; None where there can."""
        return picture.fault or (NO_QUESTION if question is None and self.needs_question else None)

    @torch.no_grad()
    def features(self, pixels: Any) -> torch.Tensor:
        """What the head sees (n, P, Dv) of decoded pictures (n, C, H, W), or of their tiles."""
        values = self.pixels(pixels, self.backbone.device).to(self.backbone.model.dtype)
        return look(self.backbone, self.modules, values).vision

    @torch.no_grad()
    def start(self, pictures: Sequence[Decoded], questions: Sequence[str | None]) -> Started:
        """Begin to judge pictures, each with its question. On the device, where it is perhaps not computed yet.

        A picture that is there several times, with several questions, runs through the tower once.
        """
        distinct: dict[str | None, Decoded] = {}
        for picture in pictures:
            distinct.setdefault(picture.digest, picture)
        starts = np.cumsum([0, *(len(one.pixels) for one in distinct.values())])
        first = dict(zip(distinct, starts.tolist(), strict=False))
        texts = [self._embed.readings(question) for question in questions]
        frames = [
            (first[one.digest] + at, readings)
            for one, readings in zip(pictures, texts, strict=True)
            for at in range(len(one.pixels))
        ]
        features = self.features(self.pixels.joined([one.pixels for one in distinct.values()]))
        output = head_output(
            self,
            lambda wanted: rows_of(features, [frames[one][0] for one in wanted]),
            [readings for _, readings in frames],
        )
        return Started(output, pictures, [len(readings) for readings in texts])

    def finish(self, started: Started) -> Verdicts:
        """What `start` has begun: for every picture the verdict on the frame and reading that decides."""
        counts = [len(one.pixels) * readings for one, readings in zip(started.pictures, started.readings, strict=True)]
        made, chosen = decide(self, started.output, self.policy, counts)
        starts = np.cumsum([0, *counts]).tolist()
        frames = [
            (one.numbers[(place - first) // readings], len(one.numbers), one.total)
            for one, place, first, readings in zip(started.pictures, chosen, starts, started.readings, strict=False)
        ]
        taxonomy = made.taxonomy
        return Verdicts(
            made.found.types[chosen],
            made.levels[chosen],
            np.array(taxonomy.labels, object)[made.type[chosen]],
            np.array(taxonomy.levels, object)[made.level[chosen]],
            np.array([made.rule(row) for row in chosen], object),
            made.risk[chosen],
            made.finite[chosen],
            made.found.attention[chosen].reshape(len(chosen), -1, *self.backbone.sizes.grid),
            np.array(frames, int).reshape(-1, len(FRAMES)),
            np.full(len(chosen), np.nan) if made.found.outside is None else made.found.outside[chosen],
        )

    @property
    def calibrated(self) -> Calibrated | None:
        """What is known of the calibration's pictures."""
        return None if self.modules.outside is None else self.modules.outside.calibration(self.thresholds)


def verdict_columns(
    found: Sequence[Verdicts], rows: Sequence[int], faults: list[str | None], config: SafetyConfig
) -> dict[str, np.ndarray]:
    """Verdicts as columns. Those without all their probabilities are noted among the faults.

    Args:
        found: batches of verdicts.
        rows: where each of them goes; the other rows are NaN and None.
        faults: of all rows.
        config: names of types and levels.
    """
    count, taxonomy, at = len(faults), config.taxonomy, np.asarray(rows, int)
    numbers = [f"p_{name}" for name in taxonomy.labels] + [f"level_{name}" for name in taxonomy.levels]
    columns = {name: np.full(count, np.nan, np.float32) for name in numbers} | {"risk": np.full(count, np.nan)}
    columns |= {name: np.full(count, None, object) for name in ("type", "level", "flagged", "rule", *FRAMES)}
    columns["outside"] = np.full(count, np.nan, np.float32)
    if found:
        judged = Verdicts._make(np.concatenate(parts) for parts in zip(*found, strict=True))
        flagged = [rule is not None for rule in judged.rule]
        values = [*judged.types.T, *judged.levels.T, judged.risk, judged.type, judged.level, flagged, judged.rule]
        for column, part in zip(columns.values(), [*values, *judged.frames.T, judged.outside], strict=True):
            column[at] = part
        for row in at[~judged.finite].tolist():
            faults[row] = NOT_FINITE
    return columns
