"""`shiftdc`: of the shift that a picture causes, takes back what makes a question look safe (ShiftDC, 2502.13095).

CMRM subtracts the whole shift, and with it what the picture shows. ShiftDC keeps all of it but the part along one
direction, from the mean state of unsafe texts to that of safe ones. The text that the shift is measured from is the
question with a caption of the picture, by the model itself; `lite` has the question alone, one generation less.

Does not cover: pictures whose caption does not name what is unsafe.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from safety_modules.config import BaseSizes
from safety_modules.defences.anchors import Anchors
from safety_modules.defences.answer import Answer
from safety_modules.defences.base import Answering, Words
from safety_modules.defences.call import Call
from safety_modules.defences.shift import ShiftDefence, ShiftSettings, along, direction, text_prompt
from safety_modules.errors import ConfigError

CAPTION = "Describe what the image shows."


class ShiftDcSettings(ShiftSettings):
    """What the picture's shift is measured from.

    Attributes:
        form: `caption`, as published, or `lite`, which is not: no caption.
        caption: what the model is asked for one.
        caption_tokens: new tokens of it, at most.
    """

    kind: Literal["shiftdc"] = "shiftdc"
    form: Literal["caption", "lite"] = "caption"
    caption: Words = CAPTION
    caption_tokens: int = Field(default=48, gt=0, le=1024)


class ShiftDc(ShiftDefence):
    """The base with the safety-relevant part of each picture's shift taken back. Questions without one stay."""

    kind = "shiftdc"
    settings_type = ShiftDcSettings
    changes_inputs = True
    source = "ShiftDC, arXiv 2502.13095 (NeurIPS 2025)"
    leaves_out = (
        "its texts and its caption prompt: own ones. The shift is measured in the pass that it is taken back in, so "
        "that no block takes back what an earlier one has; at the last token of the prompt only"
    )
    vector = "direction"

    @classmethod
    def first_layer(cls, sizes: BaseSizes) -> int:
        """The middle one, as published."""
        return sizes.num_layers // 2

    def found(self, anchors: Anchors) -> torch.Tensor:
        if not (anchors.unsafe and anchors.safe):
            missing = "safe" if anchors.unsafe else "unsafe"
            raise ConfigError(
                f"shiftdc not fitted: expected unsafe and safe anchors, which the direction lies between, got no "
                f"{missing} ones. Add them."
            )
        return direction(self.read(anchors.unsafe), self.read(anchors.safe))

    def around(self, call: Call, answer: Answering) -> Answer:
        if self.one_pass:
            return answer(self.prepared(call))
        call = call.encoded()
        asked = [call.question(row, self.settings.caption) for row in range(len(call))]
        captions = answer(call.aside(self.settings.caption_tokens).asked(asked))
        return answer(self._calibrated(call, [self._text(ids) for ids in captions.new_ids.tolist()]))

    @property
    def one_pass(self) -> bool:
        return bool(self.settings.form == "lite")

    def prepared(self, call: Call) -> Call:
        if not self.one_pass:
            return super().prepared(call)
        return self._calibrated(call, [""] * len(call))

    def _calibrated(self, call: Call, captions: Sequence[str]) -> Call:
        prompts = [text_prompt(call, row, caption) for row, caption in enumerate(captions)]
        targets = self.read_rows(call, prompts, None)  # (B, L, D)

        def move(place: int, states: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            shift = states - targets[which, place][:, None].to(states)  # (B, T, D)
            return states - self.settings.alpha * along(shift, self.vectors[place].to(states))

        return self.moving(call, move, "last", "prefill")

    def _text(self, ids: Sequence[int]) -> str:
        text = str(self.backbone.processor.tokenizer.decode(ids, skip_special_tokens=True))
        while self.backbone.image_token in text:  # a model may write it; in a prompt it would stand for a picture
            text = text.replace(self.backbone.image_token, "")
        return text.strip()
