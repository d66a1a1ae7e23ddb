"""The three ways rows are answered: by the base, by the steered language model, by the policy's text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from safety_modules.defences.guard import options
from safety_modules.defences.guard.plan import CallPlan
from safety_modules.defences.guard.steering import build_inputs
from safety_modules.defences.guard.stitch import Part

if TYPE_CHECKING:
    from safety_modules.attach.attachment import SafetyAttachment

PER_ROW = ("input_ids", "inputs", "attention_mask", "position_ids", "pixel_values")


@dataclass(frozen=True)
class Call:
    """One guarded call, judged and planned.

    Attributes:
        attachment: what is attached to the model.
        kwargs: of the caller's `generate`.
        plan: who answers which row.
    """

    attachment: "SafetyAttachment"
    kwargs: dict[str, Any]
    plan: CallPlan

    def option(self, name: str, default: Any = None) -> Any:
        """A generation setting as transformers resolves it."""
        return options.option(self.attachment.backbone.model, self.kwargs, name, default)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that are not the batch itself."""
        return {name: value for name, value in self.kwargs.items() if name not in PER_ROW}

    @property
    def pad_id(self) -> int:
        """The id generate pads with."""
        return options.pad_id(self.attachment.backbone, self.kwargs)

    def callbacks(self, rows: Sequence[int], width: int) -> dict[str, Any]:
        """The caller's callbacks for these rows, whose prompts have this length in the language model."""
        model = self.attachment.backbone.model
        return options.callbacks(model, self.kwargs, rows, self.plan.batch.ids[list(rows)], width)

    @contextmanager
    def by_base(self, rows: Sequence[int]) -> Iterator[None]:
        """The base as it is, with the features of these rows' images at hand if the tower ran already."""
        backbone, plan = self.attachment.backbone, self.plan
        with self.attachment.lora_mounted(False):
            if plan.projected is None:
                yield
            else:
                with backbone.planned(plan.features_of(rows), [plan.batch.counts[row] for row in rows]):
                    yield


def answer_base(call: Call, rows: list[int]) -> Part:
    """The base's own answer, with the rows' own ids and padding."""
    batch, backbone = call.plan.batch, call.attachment.backbone
    width = batch.ids.shape[1]
    part: dict[str, Any] = {"input_ids": batch.ids[rows], "return_dict_in_generate": True}
    if call.kwargs.get("attention_mask") is not None:
        part["attention_mask"] = batch.mask[rows]
    if any(batch.counts[row] for row in rows):
        part["pixel_values"] = batch.pixels_of(rows)
    part |= call.callbacks(rows, width)
    with call.by_base(rows):
        output = backbone.base_generate(**call.options | part)
    return Part(rows, output.sequences[:, width:], output)


def answer_guarded(call: Call, rows: list[int]) -> Part:
    """The language model with [s2 ; h_i], the hint and LoRA on the steered rows; nothing added to others."""
    batch, backbone = call.plan.batch, call.attachment.backbone
    inputs = build_inputs(backbone, call.attachment.modules.lm_tokens(), call.plan.samples(rows))
    width = inputs.input_ids.shape[1]
    part = {
        "input_ids": inputs.input_ids,
        "attention_mask": inputs.attention_mask,
        "pixel_values": batch.pixels_of(rows),  # only counted: the planned features are used
        "return_dict_in_generate": True,
    }
    part |= options.moved_lengths(backbone.model, call.kwargs, width - batch.ids.shape[1])
    part |= call.callbacks(rows, width)
    repeats = max(call.option("num_beams", 1), call.option("num_return_sequences", 1))
    steered = [call.plan.rows[row].by == "steered" for row in rows for _ in range(repeats)]
    with (
        call.attachment.lora_mounted(True, steered),
        backbone.planned(inputs.features, inputs.images_per_row),
        options.cache_length_restored(backbone.model),
    ):
        output = backbone.base_generate(**call.options | part)
    return Part(rows, output.sequences[:, width:], output)


def answer_policy(call: Call, rows: list[int]) -> Part:
    """The policy's refusal, within the caller's limit of new tokens and up to the caller's stop strings."""
    batch, backbone = call.plan.batch, call.attachment.backbone
    budget = options.new_token_budget(backbone.model, call.kwargs, batch.ids.shape[1])
    texts = []
    for row in rows:
        ids = backbone.answer_ids(call.plan.rows[row].refusal)
        ids = options.until_stop(backbone.processor.tokenizer, ids, call.option("stop_strings"))
        texts.append(torch.tensor(ids[:budget]))
    new = batch.ids.new_full((len(rows), max(map(len, texts))), call.pad_id)
    for row, text in enumerate(texts):
        new[row, : len(text)] = text.to(new)
    n = call.option("num_return_sequences", 1)
    new = new.repeat_interleave(n, 0)
    streamer = call.kwargs.get("streamer")
    if streamer is not None:
        streamer.put(batch.ids[rows].repeat_interleave(n, 0).cpu())
        for step in new.unbind(1):
            streamer.put(step.cpu())
        streamer.end()
    return Part(rows, new, None)
