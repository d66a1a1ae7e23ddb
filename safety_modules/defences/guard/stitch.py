"""Putting the parts of a split call together again: sequences, scores, beams."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput

from safety_modules.policy.verdict import Verdict


@dataclass
class GuardedOutput(GenerateDecoderOnlyOutput):
    """What a guarded `generate` returns with `return_dict_in_generate=True`.

    Attributes:
        sequences: the prompts as they were passed in, then the new tokens; no hint, no safety token.
        scores: as in transformers. Where a batch was split, NaN marks rows and steps that no language model
            ran for (refusals by policy; a part that ended earlier). The same holds for `logits`.
        past_key_values: only where the base answered the whole batch; a steered cache would not fit
            `sequences`.
        sequences_scores: beams only; NaN for refusals by policy.
        beam_indices: beams only.
        verdicts: per row of the input batch the verdict that drove it; None for rows without an image and
            rows switched off.
        image_verdicts: per row the verdicts on all of its images.
    """

    sequences_scores: torch.Tensor | None = None
    beam_indices: torch.Tensor | None = None
    verdicts: list[Verdict | None] | None = None
    image_verdicts: list[list[Verdict]] | None = None


@dataclass(frozen=True)
class Part:
    """Some rows of a batch, answered.

    Attributes:
        rows: their indices in the batch.
        new_ids: (len(rows) x n, L) new tokens.
        output: what generate returned, or None where no language model ran.
    """

    rows: list[int]
    new_ids: torch.Tensor
    output: Any | None


def as_guarded(
    output: Any, verdicts: Sequence[Verdict | None], image_verdicts: Sequence[list[Verdict]]
) -> GuardedOutput:
    """A base output with verdicts."""
    known = {name: output.get(name) for name in GuardedOutput.__dataclass_fields__ if name in output}
    return GuardedOutput(**known, verdicts=list(verdicts), image_verdicts=list(image_verdicts))


def stitch(prompts: torch.Tensor, parts: Sequence[Part], n: int, beams: int, pad: int) -> GuardedOutput:
    """One output for the whole batch, in the caller's row order.

    Args:
        prompts: (B, T) as passed in.
        parts: every row in exactly one part.
        n: answers per row.
        beams: rows of `scores` per row of the batch.
        pad: id after the end of an answer.
    """
    outputs = [(part, part.output) for part in parts if part.output is not None]
    length = max(part.new_ids.shape[1] for part in parts)
    new = prompts.new_full((len(prompts) * n, length), pad)
    for part in parts:
        new[_flat(part.rows, n, new.device), : part.new_ids.shape[1]] = part.new_ids.to(new.device)

    merged: dict[str, Any] = {"sequences": torch.cat([prompts.repeat_interleave(n, 0), new], 1)}
    for name in ("scores", "logits"):
        steps = [(part.rows, output[name]) for part, output in outputs if output.get(name) is not None]
        if steps:
            merged[name] = _merge_steps(steps, len(prompts), beams)
    for part, output in outputs:
        here = _flat(part.rows, n, new.device)
        if output.get("sequences_scores") is not None:
            values = output["sequences_scores"].to(new.device)
            total = merged.setdefault("sequences_scores", values.new_full((len(new),), torch.nan))
            total[here] = values
        if output.get("beam_indices") is not None:
            values = output["beam_indices"].to(new.device)
            total = merged.setdefault("beam_indices", values.new_full((len(new), length), -1))
            of_row = torch.tensor(part.rows).to(values)[values.clamp(min=0) // beams]
            values = torch.where(values < 0, values, of_row * beams + values % beams)
            total[here, : values.shape[1]] = values[:, :length]
    return GuardedOutput(**merged)


def _merge_steps(
    parts: Sequence[tuple[list[int], Sequence[torch.Tensor]]], batch: int, per_row: int
) -> tuple[torch.Tensor, ...]:
    """Per step one (batch x per_row, V) tensor; NaN where no part has a value."""
    example = parts[0][1][0]
    merged = []
    for step in range(max(len(steps) for _, steps in parts)):
        total = example.new_full((batch * per_row, example.shape[-1]), torch.nan)
        for rows, steps in parts:
            if step < len(steps):
                total[_flat(rows, per_row, total.device)] = steps[step].to(total.device)
        merged.append(total)
    return tuple(merged)


def _flat(rows: list[int], per_row: int, device: torch.device) -> torch.Tensor:
    """Indices of the rows' answers in a (B x per_row) tensor."""
    return torch.tensor([row * per_row + i for row in rows for i in range(per_row)], device=device)
