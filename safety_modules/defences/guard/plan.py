"""Who answers each row of a call: features -> verdicts -> plan. The vision tower runs once, no language model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from safety_modules.defences.guard.batch import Batch, read_batch
from safety_modules.defences.guard.judge import judge, riskiest
from safety_modules.defences.guard.steering import Sample, Steer
from safety_modules.errors import GuardError
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import Verdict

if TYPE_CHECKING:
    from safety_modules.attach.attachment import SafetyAttachment

By = Literal["base", "steered", "policy"]
"""Who answers: the base, the steered language model, or the policy with a fixed text."""


@dataclass(frozen=True)
class RowPlan:
    """Who answers a row, because of which verdict, and with what."""

    by: By
    verdict: Verdict | None = None
    steer: Steer = field(default_factory=Steer)
    refusal: str = ""


@dataclass(frozen=True)
class CallPlan:
    """One call, judged.

    Attributes:
        batch: the caller's prompts and images.
        projected: projected features (P, D) of all its images; None where nothing had to be judged.
        rows: one plan per row.
        image_verdicts: per row the verdicts on its images.
    """

    batch: Batch
    projected: list[torch.Tensor] | None
    rows: list[RowPlan]
    image_verdicts: list[list[Verdict]]

    @property
    def verdicts(self) -> list[Verdict | None]:
        """Per row the verdict that drives it."""
        return [row.verdict for row in self.rows]

    def answered_by(self, *by: By) -> list[int]:
        """Rows that are answered in one of these ways, in order."""
        return [number for number, row in enumerate(self.rows) if row.by in by]

    def features_of(self, rows: Sequence[int]) -> list[torch.Tensor]:
        """Projected features of the images of these rows."""
        if self.projected is None:
            return []
        return [self.projected[image] for image in self.batch.images_of(rows)]

    def samples(self, rows: Sequence[int]) -> list[Sample]:
        """These rows as the language model gets them; rows of the base without any addition."""
        return [Sample(self.batch.prompt(row), self.features_of([row]), self.rows[row].steer) for row in rows]


def plan_call(
    attachment: "SafetyAttachment", kwargs: dict[str, Any], safety: bool | Sequence[bool], policy: Policy
) -> CallPlan:
    """Judge the images of a call and decide who answers each row.

    Raises:
        GuardError: the call hides its images, or `safety` does not fit its rows.
        PromptError: image tokens and images do not match.
    """
    batch = read_batch(attachment.backbone, kwargs)
    on = _switches(safety, len(batch.ids))
    if batch.pixels is None or not any(on[row] and count for row, count in enumerate(batch.counts)):
        return CallPlan(batch, None, [RowPlan("base") for _ in on], [[] for _ in on])
    images = attachment.backbone.encode_images(batch.pixels)
    verdicts = _judge_rows(attachment, batch, on, images.vision, policy)
    plans = [plan_row(found, policy, attachment.config.mode) for found in verdicts]
    return CallPlan(batch, images.projected, plans, verdicts)


def plan_row(verdicts: Sequence[Verdict], policy: Policy, mode: str) -> RowPlan:
    """Who answers a row, given the verdicts on its images: the most severe one drives it.

    Args:
        verdicts: one per image; empty = nothing was judged.
        policy: whose words are used.
        mode: `gated` or `always` (SafetyConfig.mode).
    """
    if not verdicts:
        return RowPlan("base")
    driver = riskiest(verdicts)
    words = (driver.type, driver.level, driver.probabilities[driver.type])
    if driver.action == "refuse":
        return RowPlan("policy", driver, refusal=policy.refusal_text(*words))
    hint = policy.hint(*words) if driver.action == "hint" else None
    if mode == "always":
        return RowPlan("steered", driver, Steer((True,) * len(verdicts), hint))
    if hint is None:
        return RowPlan("base", driver)
    return RowPlan("steered", driver, Steer(tuple(v.action == "hint" for v in verdicts), hint))


def _judge_rows(
    attachment: "SafetyAttachment", batch: Batch, on: Sequence[bool], vision: torch.Tensor, policy: Policy
) -> list[list[Verdict]]:
    """Per row the verdicts on its images; none for rows switched off."""
    rows = [row for row, count in enumerate(batch.counts) if on[row] and count]
    images = batch.images_of(rows)
    prompts = [batch.prompt(row) for row in rows for _ in range(batch.counts[row])]
    places = [place for row in rows for place in range(batch.counts[row])]
    found = iter(judge(attachment, vision[images], prompts, policy, places))
    return [[next(found) for _ in range(count)] if row in rows else [] for row, count in enumerate(batch.counts)]


def _switches(safety: bool | Sequence[bool], rows: int) -> list[bool]:
    if isinstance(safety, bool):
        return [safety] * rows
    if len(safety) != rows:
        raise GuardError(
            f"call not guarded: expected safety to be a bool or {rows} bools, one per row, got "
            f"{len(safety)}. Pass one per row of input_ids."
        )
    return list(safety)
