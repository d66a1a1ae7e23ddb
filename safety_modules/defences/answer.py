"""What a call is answered with: new tokens, verdicts, what it took; and parts of a batch put together again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.utils import ModelOutput

from safety_modules.policy.verdict import Verdict, riskiest


@dataclass
class Usage:
    """What answering one row took.

    Attributes:
        prompt_tokens: of the prompts the language model really got, over all its passes.
        new_tokens: it generated, over all passes and answers, the end of the sequence counted.
        tower_runs: images that went through the vision tower.
        lm_passes: calls of the language model's generation.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    tower_runs: int = 0
    lm_passes: int = 0


@dataclass
class Row:
    """What became known about one row of the caller's batch, while it was answered.

    Attributes:
        usage: what answering it took.
        verdict: the verdict that drove it; None where nothing judged it.
        image_verdicts: the verdicts on all of its images.
        harmful: what a defence without verdicts took it for; None = nothing said so.
        refusal: the policy's fixed answer, where that is the answer.
        steered: whether the guard's hint, safety tokens or LoRA act on it.
        hinted: whether its prompt holds a hint: one is enough.
    """

    usage: Usage = field(default_factory=Usage)
    verdict: Verdict | None = None
    image_verdicts: list[Verdict] = field(default_factory=list)
    harmful: bool | None = None
    refusal: str | None = None
    steered: bool = False
    hinted: bool = False

    def judged(self, verdicts: Sequence[Verdict]) -> None:
        """Note verdicts on its images, of which there are some; of several defences' the riskiest drives the row."""
        driver = riskiest([*([self.verdict] if self.verdict else []), *verdicts])
        if driver is not self.verdict:
            self.verdict, self.image_verdicts = driver, [*verdicts]


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
        usage: per row what answering it took; None where every defence was off.
        harmful: per row what a defence without verdicts took it for; None where nothing said so.
        refusals: per row the policy's fixed answer, where that is the answer, before stop strings cut it; else None.
    """

    sequences_scores: torch.Tensor | None = None
    beam_indices: torch.Tensor | None = None
    verdicts: list[Verdict | None] | None = None
    image_verdicts: list[list[Verdict]] | None = None
    usage: list[Usage] | None = None
    harmful: list[bool | None] | None = None
    refusals: list[str | None] | None = None


_PER_STEP = ("scores", "logits")
_KEPT = (*_PER_STEP, "sequences_scores", "beam_indices")


@dataclass
class Answer:
    """The answer to a call of B rows.

    Attributes:
        new_ids: (B x n, L) new tokens, n answers a row.
        output: what the base's generate returned, or its fields of `_KEPT`; None where no language model ran.
        whole: whether `output` is the base's own answer to the caller's own call.
    """

    new_ids: torch.Tensor
    output: Any | None = None
    whole: bool = False

    def output_for(self, prompts: torch.Tensor, rows: Sequence[Row]) -> GuardedOutput:
        """As the caller gets it, whose prompts (B, T) come back as they were passed in."""
        if self.whole:
            found = self.output if isinstance(self.output, ModelOutput) else {"sequences": self.output}
            known = {name: found[name] for name in GuardedOutput.__dataclass_fields__ if name in found}
        else:
            known = {name: value for name in _KEPT if (value := (self.output or {}).get(name)) is not None}
            n = len(self.new_ids) // len(rows)
            known["sequences"] = torch.cat([prompts.repeat_interleave(n, 0), self.new_ids.to(prompts.device)], 1)
        return GuardedOutput(
            **known,
            verdicts=[row.verdict for row in rows],
            image_verdicts=[row.image_verdicts for row in rows],
            usage=[row.usage for row in rows],
            harmful=[row.harmful for row in rows],
            refusals=[row.refusal for row in rows],
        )


def stitch(parts: Sequence[tuple[list[int], Answer]], n: int, beams: int, pad: int, like: torch.Tensor) -> Answer:
    """One answer for a whole batch, in its row order.

    Args:
        parts: rows and their answer; every row in exactly one part.
        n: answers per row.
        beams: rows of `scores` per row of the batch.
        pad: id after the end of an answer.
        like: (B, T) ids, for number, dtype and device.
    """
    batch, length = len(like), max(answer.new_ids.shape[1] for _, answer in parts)
    new = like.new_full((batch * n, length), pad)
    for rows, answer in parts:
        new[_flat(rows, n, new.device), : answer.new_ids.shape[1]] = answer.new_ids.to(new.device)
    outputs = [(rows, answer.output) for rows, answer in parts if answer.output is not None]
    merged: dict[str, Any] = {}
    for name in _PER_STEP:
        steps = [(rows, output[name]) for rows, output in outputs if output.get(name) is not None]
        if steps:
            merged[name] = _merge_steps(steps, batch, beams)
    for rows, output in outputs:
        here = _flat(rows, n, new.device)
        if output.get("sequences_scores") is not None:
            values = output["sequences_scores"].to(new.device)
            total = merged.setdefault("sequences_scores", values.new_full((len(new),), torch.nan))
            total[here] = values
        if output.get("beam_indices") is not None:
            values = output["beam_indices"].to(new.device)
            total = merged.setdefault("beam_indices", values.new_full((len(new), length), -1))
            of_row = torch.tensor(rows).to(values)[values.clamp(min=0) // beams]
            values = torch.where(values < 0, values, of_row * beams + values % beams)
            total[here, : values.shape[1]] = values[:, :length]
    return Answer(new, merged if outputs else None)


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
