"""`cmrm`: takes back the shift that a picture causes in the hidden states (CMRM, arXiv 2410.09047). No training.

A language model that refuses a question as text may answer it beside a picture, whatever that shows: the picture moves
the states away from where it learnt to refuse. The shift is measured with a meaningless picture, once on a few texts
(`dataset`) or for each question (`sample`), and subtracted.

Does not cover: what only the picture says; there the language model has nothing to refuse.
"""

from typing import Literal

import torch
from pydantic import Field

from safety_modules.defences.anchors import Anchors
from safety_modules.defences.call import Call
from safety_modules.defences.shift import (
    ShiftDefence,
    ShiftSettings,
    Steps,
    Tokens,
    blank_features,
    mean_shift,
    pc1_scaled,
    text_prompt,
    with_image,
)
from safety_modules.errors import ConfigError


class CmrmSettings(ShiftSettings):
    """How the shift is measured, and where it is taken back.

    Attributes:
        alpha: how much of the shift is subtracted. Behind every block all of it is too much: the states carry on what
            earlier blocks had taken back.
        level: `dataset` (one shift for all, measured when it is fitted) or `sample` (each question's own: two passes of
            the language model more).
        form: of the shift of a dataset: the mean, or the first principal component scaled by its standard deviation.
        tokens: of the prompt: the last one, or all.
        steps: the prompt's pass alone, or every new token's too.
        picture: the meaningless one.
        anchors: kinds of texts it is fitted to: `both`, or `unsafe` alone, as published. The mean over unsafe texts
            holds "refuse rather than answer" beside the shift of modality: it refuses more, of benign questions too.
    """

    kind: Literal["cmrm"] = "cmrm"
    alpha: float = Field(default=0.5, ge=0, le=10, allow_inf_nan=False)
    level: Literal["dataset", "sample"] = "dataset"
    form: Literal["mean", "pc1_scaled"] = "mean"
    tokens: Tokens = "last"
    steps: Steps = "all"
    picture: Literal["white", "noise"] = "white"
    anchors: Literal["both", "unsafe"] = "both"


class Cmrm(ShiftDefence):
    """The base with the shift of modality subtracted behind its blocks. Questions without a picture stay."""

    kind = "cmrm"
    settings_type = CmrmSettings
    source = "CMRM, arXiv 2410.09047 (no code published); pc1_scaled as in jliu779/vlm-subspace-steering"
    leaves_out = (
        "its anchors (VLSafe and manipulated JailbreakLLMs, unsafe only): own texts, unsafe and safe; what it leaves "
        "open (layers, steps, principal component or mean) is a setting"
    )
    vector = "shift"

    @classmethod
    def is_fitted(cls, settings: CmrmSettings) -> bool:
        return settings.level == "dataset"

    def found(self, anchors: Anchors) -> torch.Tensor:
        kinds = (
            {"unsafe": anchors.unsafe, "safe": anchors.safe}
            if self.settings.anchors == "both"
            else {"unsafe": anchors.unsafe}
        )
        if missing := [name for name, texts in kinds.items() if not texts]:
            raise ConfigError(
                f"cmrm not fitted: expected unsafe and safe anchors, got no {missing[0]} ones. The mean over unsafe "
                'texts alone is not the shift of modality: it holds "refuse rather than answer" too, and so refuses '
                'benign questions as well. Add the others, or ask for it: CmrmSettings(anchors="unsafe").'
            )
        picture = blank_features(self.backbone, self.settings.picture)
        shifts = [self.read(texts, picture) - self.read(texts) for texts in kinds.values()]
        return mean_shift(shifts) if self.settings.form == "mean" else pc1_scaled(shifts)

    def prepared(self, call: Call) -> Call:
        shifts = self.vectors[None] if self.is_fitted(self.settings) else self._own_shifts(call)  # (1 or B, L, D)

        def move(place: int, states: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            shift = shifts[which if len(shifts) > 1 else 0, place].to(states)  # (B, D) or (D)
            return states - self.settings.alpha * shift.view(-1, 1, shift.shape[-1])

        return self.moving(call, move, self.settings.tokens, self.settings.steps)

    def _own_shifts(self, call: Call) -> torch.Tensor:
        """Each row's shift, its images in the place of which the meaningless one stands: (B, L, D)."""
        rows, backbone = range(len(call)), self.backbone
        picture = blank_features(backbone, self.settings.picture)
        call.records[call.rows[0]].usage.tower_runs += 1  # for all of them
        shown = self.read_rows(call, [with_image(backbone, call, row) for row in rows], picture)
        return shown - self.read_rows(call, [text_prompt(call, row) for row in rows], None)
