"""A guarded call for a decoding loop of one's own: judged and planned here, run by the caller."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from safety_modules.defences.call import Call
from safety_modules.policy.verdict import Verdict


@dataclass(frozen=True)
class Prepared:
    """One call, judged and planned. Made by `SafetyAttachment.prepare`.

        prepared = safety.prepare(**inputs)
        with prepared.running():
            output = model(**prepared.inputs, use_cache=True)
            ...  # next steps: model(input_ids=..., attention_mask=..., position_ids=..., past_key_values=...)

    Risky and other rows are in one batch, as with `batch_mode="merged"`; where no row is steered, the batch is
    the caller's own.

    Does not cover: rows that change places between steps: what acts on rows goes by their places.
    """

    _call: Call
    _alone: Callable[[], AbstractContextManager[None]]

    @property
    def verdicts(self) -> list[Verdict | None]:
        """Per row of the caller's batch the verdict that drives it; None where nothing was judged."""
        return [record.verdict for record in self._call.records]

    @property
    def image_verdicts(self) -> list[list[Verdict]]:
        """Per row of the caller's batch the verdicts on all of its images."""
        return [record.image_verdicts for record in self._call.records]

    @property
    def refusals(self) -> dict[int, str]:
        """By row of the caller's batch, the answer of the policy where it refuses."""
        return {row: one.refusal for row, one in enumerate(self._call.records) if one.refusal is not None}

    @property
    def rows(self) -> list[int]:
        """The caller's rows the language model has to answer, in order: all but the refused ones."""
        return self._call.rows

    @property
    def steered(self) -> list[bool]:
        """Per prompt whether it is steered: hint, safety tokens, LoRA."""
        return [self._call.records[row].steered for row in self._call.rows]

    @property
    def input_ids(self) -> torch.Tensor:
        """The prompts (len(rows), T), left-padded. Risky ones hold the hint: do not show them."""
        return self._call.ids.to(self._call.backbone.device)

    @property
    def attention_mask(self) -> torch.Tensor:
        """(len(rows), T)."""
        return self._call.mask.to(self._call.backbone.device)

    @property
    def position_ids(self) -> torch.Tensor:
        """(len(rows), T), counted from each row's first real token."""
        return (self.attention_mask.cumsum(-1) - 1).clamp(min=0)

    @property
    def embeddings(self) -> list[torch.Tensor]:
        """Per prompt what the language model sees of it, (T_i, D) without padding: words, pictures, safety tokens.

        For an engine elsewhere that takes embeddings. Where a prompt is `steered`, the guard's LoRA is to act there.
        """
        return [self._embedded(row) for row in range(len(self._call))]

    def _embedded(self, row: int) -> torch.Tensor:
        backbone, ids = self._call.backbone, torch.tensor(self._call.prompt(row))
        found = backbone.embed_text(ids[None])[0]
        if features := self._call.features_of(row):
            places = (ids == backbone.image_token_id).to(found.device)
            found = found.masked_scatter(places[:, None], torch.cat(features).to(found))
        return found

    @property
    def inputs(self) -> dict[str, Any]:
        """What to call the model with first, inside `running()`."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "pixel_values": self._call.backbone.pixel_stub(len(self._call.features or ())),  # for the features
        }

    @contextmanager
    def running(self, repeats: int = 1) -> Iterator[None]:
        """Inside this block `model(...)` uses the planned features, and every defence acts on its rows.

        Alone on the model and without gradients: no other guarded call runs meanwhile. May be left and entered
        again between two steps. Call the model with this batch only.

        Args:
            repeats: how many of each row the model is called with, one after the other (beams).

        Raises:
            GuardError: safety was detached since.
        """
        with self._alone(), self._call.running(repeats):
            yield
