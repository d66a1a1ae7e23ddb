"""Decoded pictures to verdicts: tower, safety modules, and the policy where a rule fires; in batches, as arrays."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.format import CONFIG_FILE
from safety_modules.adapter.hub import find_adapter
from safety_modules.audit.decode import Pixels
from safety_modules.backbones.tower import TowerBackbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard import embed_questions
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.defences.guard.modules.head import HeadOutput
from safety_modules.policy.policy import Policy
from safety_modules.policy.scores import Judgements, judgements
from safety_modules.policy.verdict import ACTIONS
from safety_modules.training.corpus import QuestionEmbeddings


class Started(NamedTuple):
    """A batch that is being judged: the head's output for every reading (`guard.question_readings`) of every question,
    and how many readings each has.
    """

    output: HeadOutput
    readings: list[int]


class Judged(NamedTuple):
    """A batch of N verdicts, as arrays.

    Attributes:
        types: probabilities (N, types + 1), clean last: see `scores.Judgements`.
        levels: probabilities (N, levels).
        type: of each verdict.
        level: of each verdict.
        rule: that fired, or None.
        severity: of each verdict (N,), by action and level, 0 where no rule fired: as `guard.judge.riskiest` has it.
        risk: of each verdict (N,).
        attention: (N, types, rows, columns) of the patches; float32.
    """

    types: np.ndarray
    levels: np.ndarray
    type: list[str]
    level: list[str]
    rule: list[str | None]
    severity: np.ndarray
    risk: np.ndarray
    attention: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """Which of them have all their probabilities, (N,) bool."""
        return np.isfinite(self.types).all(1) & np.isfinite(self.levels).all(1)


class Parts:
    """A vision tower with an adapter's safety modules, thresholds and policy.

    Args:
        base: folder of the base model.
        adapter: folder, or id on the hub.
        policy: None = the default one.
        device: of tower and modules.
        dtype: of the tower.
    """

    def __init__(self, base: Path, adapter: str, policy: Policy | None, device: str, dtype: torch.dtype) -> None:
        folder = Path(find_adapter(adapter))
        self.backbone = TowerBackbone(base, dtype, device)
        self.fingerprint = self.backbone.fingerprint()
        loaded = read_adapter(
            folder,
            fingerprint=self.backbone.fingerprint,
            sizes=self.backbone.sizes,
            processor=self.backbone.pixel_settings(),
        )
        self.config: SafetyConfig = loaded.config.safety
        self.digest = hashlib.sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
        self.thresholds, self.temperature = dict(loaded.config.thresholds), loaded.config.temperature
        self.policy = (policy or Policy.default()).completed(loaded.config.rules)
        self.policy.check(self.config.taxonomy)
        self.limits = self.policy.limits(self.config.taxonomy, self.thresholds)
        self.modules = SafetyModules(self.config, self.backbone.sizes).to(self.backbone.device).eval()
        self.modules.load_state_dict(loaded.tensors)
        self.needs_question = self.config.query != "concept"
        self.pixels = Pixels(self.backbone.processor.image_processor)
        self._embed = QuestionEmbeddings(self.backbone, self.config)

    @property
    def nothing(self) -> Judged:
        """No verdict at all."""
        taxonomy, grid = self.config.taxonomy, self.backbone.sizes.grid
        types, levels = np.zeros((0, len(taxonomy.labels))), np.zeros((0, len(taxonomy.levels)))
        maps = np.zeros((0, len(taxonomy.types), *grid), np.float32)
        return Judged(types, levels, [], [], [], np.zeros(0, int), np.zeros(0), maps)

    @torch.no_grad()
    def features(self, pixels: np.ndarray) -> torch.Tensor:
        """The tower's output (n, P, Dv) for decoded pictures (n, C, H, W)."""
        values = self.pixels(pixels, self.backbone.device).to(self.backbone.model.dtype)
        return self.backbone.encode_images(values).vision

    @torch.no_grad()
    def output(self, vision: torch.Tensor, questions: Sequence[str | None]) -> Started:
        """The modules' part of `start`."""
        texts = [self._embed.readings(question) for question in questions]
        counts = [len(readings) for readings in texts]
        if len(texts) < sum(counts):
            vision = vision.repeat_interleave(torch.tensor(counts, device=vision.device), 0)
        flat = [text for readings in texts for text in readings]
        asked = embed_questions(self.backbone, flat) if any(map(len, flat)) else (None, None)
        return Started(self.modules(vision, *asked), counts)

    def start(self, pixels: np.ndarray, places: Sequence[int], questions: Sequence[str | None]) -> Started:
        """Begin to judge decoded pictures (n, C, H, W): each place in them with its question. On the device, where it
        is perhaps not computed yet.
        """
        vision = self.features(pixels)
        if list(places) != list(range(len(pixels))):
            vision = vision[torch.tensor(places, device=vision.device)]
        return self.output(vision, questions)

    def finish(self, started: Started) -> Judged:
        """What `start` has begun."""
        return most_severe(self.decide(judgements(started.output, self.temperature)), started.readings)[0]

    def decide(self, found: Judgements) -> Judged:
        """As `Policy.decide` on every row, which is asked only where a rule fires."""
        taxonomy, types, levels = self.config.taxonomy, found.types, found.levels.copy()
        own = [place for place, name in enumerate(taxonomy.labels) if name not in self.config.added]
        names = [taxonomy.labels[own[place]] for place in types[:, own].argmax(1)]
        level_names = [taxonomy.levels[place] for place in levels.argmax(1)]
        rules: list[str | None] = [None] * len(types)
        severity, risk = np.zeros(len(types), int), 1 - types[:, -1]
        finite = np.isfinite(types).all(1) & np.isfinite(levels).all(1)
        limits = np.array([self.limits.get(name, np.inf) for name in taxonomy.types])
        for row in np.flatnonzero((found.scores >= limits).any(1) & finite).tolist():
            verdict = self.policy.decide(
                types[row], levels[row], taxonomy, self.thresholds, added_levels=found.added_levels[row]
            )
            names[row], level_names[row], rules[row] = verdict.type, verdict.level, verdict.rule
            severity[row] = ACTIONS.index(verdict.action) * len(taxonomy.levels) + taxonomy.level_index(verdict.level)
            risk[row], levels[row] = verdict.risk, [*verdict.level_probabilities.values()]
        maps = found.attention.reshape(len(types), -1, *self.backbone.sizes.grid)
        return Judged(types, levels, names, level_names, rules, severity, risk, maps)


def most_severe(judged: Judged, counts: Sequence[int]) -> tuple[Judged, list[int]]:
    """One verdict for each picture of several frames, or of several readings: the most severe, of these the riskiest.

    One that is not finite comes before those that are not flagged: it is not known to be harmless.

    Args:
        judged: verdicts on frames, those of a picture together.
        counts: frames of each picture.

    Returns:
        The verdicts, and which of its picture's frames each is of.
    """
    if all(count == 1 for count in counts):
        return judged, [0] * len(counts)
    risk, start, chosen = judged.risk, 0, []
    finite, severity = np.isfinite(risk), judged.severity
    for count in counts:
        places = range(start, start + count)
        keys = {at: (severity[at] > 0, not finite[at], severity[at], risk[at] if finite[at] else 0) for at in places}
        chosen.append(max(places, key=keys.__getitem__))
        start += count
    best = Judged(
        judged.types[chosen],
        judged.levels[chosen],
        [judged.type[at] for at in chosen],
        [judged.level[at] for at in chosen],
        [judged.rule[at] for at in chosen],
        severity[chosen],
        risk[chosen],
        judged.attention[chosen],
    )
    firsts = np.cumsum([0, *counts[:-1]])
    return best, [at - int(first) for at, first in zip(chosen, firsts, strict=True)]


def joined(parts: Sequence[Judged]) -> Judged:
    """Batches as one."""
    types, levels, severity, risk, attention = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("types", "levels", "severity", "risk", "attention")
    )
    names, level_names, rules = (
        [value for part in parts for value in getattr(part, name)] for name in ("type", "level", "rule")
    )
    return Judged(types, levels, names, level_names, rules, severity, risk, attention)


def verdict_columns(judged: Judged, rows: Sequence[int], count: int, config: SafetyConfig) -> dict[str, np.ndarray]:
    """Verdicts as columns of `count` rows.

    Args:
        judged: verdicts.
        rows: where each of them goes; the other rows are NaN and None.
        count: of all rows.
        config: names of types and levels.
    """
    at = np.asarray(rows, dtype=int)
    columns: dict[str, np.ndarray] = {}
    for prefix, names, values in (
        ("p", config.taxonomy.labels, judged.types),
        ("level", config.taxonomy.levels, judged.levels),
    ):
        for place, name in enumerate(names):
            columns[f"{prefix}_{name}"] = np.full(count, np.nan, np.float32)
            columns[f"{prefix}_{name}"][at] = values[:, place]
    columns["risk"] = np.full(count, np.nan)
    columns["risk"][at] = judged.risk
    flagged: list[bool | None] = [rule is not None for rule in judged.rule]
    for name, found in (("type", judged.type), ("level", judged.level), ("flagged", flagged), ("rule", judged.rule)):
        columns[name] = np.full(count, None, object)
        columns[name][at] = np.array([*found, None], object)[:-1]
    return columns
