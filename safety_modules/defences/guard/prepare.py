"""A guarded call for a decoding loop of one's own: judged and planned here, run by the caller.

`model(...)` itself stays the base's: a loop around it judges nothing. `safety.prepare(...)` does what the guarded
`generate` does up to the language model, and leaves the decoding to the caller.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from safety_modules.defences.guard.plan import plan_call
from safety_modules.defences.guard.steering import build_inputs
from safety_modules.errors import GuardError
from safety_modules.mount.lora import SafetyLora
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import Verdict

if TYPE_CHECKING:
    from safety_modules.attach.attachment import SafetyAttachment

INPUTS = ("input_ids", "attention_mask", "pixel_values")


@dataclass(frozen=True)
class Prepared:
    """One call, judged and planned. Made by `SafetyAttachment.prepare`.

        prepared = safety.prepare(**inputs)
        with prepared.running():
            output = model(**prepared.inputs, use_cache=True)
            ...  # next steps: model(input_ids=..., attention_mask=..., position_ids=..., past_key_values=...)

    Risky and other rows are in one batch, as with `batch_mode="merged"`; where no row is steered, the batch is
    the caller's own.

    Attributes:
        verdicts: per row of the caller's batch the verdict that drives it; None where nothing was judged.
        image_verdicts: per row of the caller's batch the verdicts on all of its images.
        refusals: by row of the caller's batch, the answer of the policy where it refuses.
        rows: the caller's rows the language model has to answer, in order: all but the refused ones.
        input_ids: their prompts (len(rows), T), left-padded. Risky ones hold the hint: do not show them.
        attention_mask: (len(rows), T).
        position_ids: (len(rows), T), counted from each row's first real token.
        steered: per prompt whether it is steered: hint, safety tokens, LoRA.

    Does not cover: rows that change places between steps: LoRA acts on rows by their places.
    """

    verdicts: list[Verdict | None]
    image_verdicts: list[list[Verdict]]
    refusals: dict[int, str]
    rows: list[int]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    steered: list[bool]
    _attachment: "SafetyAttachment"
    _lora: SafetyLora | None
    _features: list[torch.Tensor]
    _images_per_row: list[int]

    @property
    def inputs(self) -> dict[str, Any]:
        """What to call the model with first, inside `running()`."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "pixel_values": self._attachment.backbone.pixel_stub(len(self._features)),  # stands for the features
        }

    @contextmanager
    def running(self, repeats: int = 1) -> Iterator[None]:
        """Inside this block `model(...)` uses the planned features, and LoRA on the steered rows.

        Alone on the model and without gradients: no other guarded call runs meanwhile. May be left and entered
        again between two steps. Call the model with this batch only.

        Args:
            repeats: how many of each row the model is called with, one after the other (beams).

        Raises:
            GuardError: safety was detached since.
        """
        attachment = self._attachment
        if not attachment.installed:
            raise GuardError(
                "not run: expected the model the call was prepared for, got it detached. Attach and prepare again."
            )
        planned = attachment.backbone.planned(self._features, self._images_per_row)
        with attachment.inference(), planned:
            if self._lora is None:
                yield
            else:
                rows = [steered for steered in self.steered for _ in range(repeats)]
                with self._lora.mounted(any(rows), rows, attachment.merge_lora):
                    yield


def prepare(
    attachment: "SafetyAttachment", inputs: dict[str, Any], safety: bool | Sequence[bool], policy: Policy
) -> Prepared:
    """Judge and plan a call. Arguments and errors: see `SafetyAttachment.prepare`."""
    unknown = [name for name in inputs if name not in INPUTS]
    if unknown:
        raise GuardError(
            f"call not prepared: expected {', '.join(INPUTS)}, got {', '.join(unknown)}. "
            "Pass what the processor gave; everything else belongs into your own loop."
        )
    backbone = attachment.backbone
    plan = plan_call(attachment, inputs, safety, policy)
    rows = plan.answered_by("base", "steered")
    steered = [plan.rows[row].by == "steered" for row in rows]
    batch = plan.batch
    if any(steered):
        built = build_inputs(backbone, attachment.modules.lm_tokens(), plan.samples(rows))
        ids, mask, features = built.input_ids, built.attention_mask, built.features
    else:
        ids, mask = batch.ids[rows].to(backbone.device), batch.mask[rows].to(backbone.device)
        features = plan.features_of(rows)
        if plan.projected is None and batch.pixels is not None:  # switched off: nothing ran yet
            features = backbone.encode_images(batch.pixels).projected
    return Prepared(
        verdicts=plan.verdicts,
        image_verdicts=plan.image_verdicts,
        refusals={row: plan.rows[row].refusal for row in plan.answered_by("policy")},
        rows=rows,
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        steered=steered,
        _attachment=attachment,
        _lora=attachment.lora,
        _features=features,
        _images_per_row=[batch.counts[row] for row in rows],
    )
