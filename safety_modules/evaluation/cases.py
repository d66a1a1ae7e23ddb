"""Test cases and replies: what every suite gives, every system answers and every judge reads."""

from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict

from safety_modules.pictures import open_picture
from safety_modules.records.images import EncodedImage

Wanted = Literal["refuse", "caution", "answer", "exact"]
"""Right behaviour: decline; decline or caution; answer (anything but a refusal or caution); give the reference."""


class Case(BaseModel):
    """One prompt, with its images and what was said before, and what a good model does with it.

    Attributes:
        id: unique in its suite and stable from run to run; names the case in transcripts.
        part: what is measured together, such as `attack/seen`; a row of the report.
        wanted: the right behaviour, see `Wanted`.
        prompt: the user's words as the benchmark's authors send them, without `<image>`.
        history: the exchanges before it, as `Record.history`; the images stand in the first turn of all.
        images: none, one or several: files, pictures inside larger files, or decoded pictures.
        category: the benchmark's own category, for tables by category.
        answer: the reference, where `wanted` is `exact`.
        type: risk type in our taxonomy (or `clean`), where known; verdicts are measured against it.
        level: its level, where known.
        meta: whatever else a judge or reader needs; plain JSON types.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    id: str
    part: str
    wanted: Wanted
    prompt: str
    history: tuple[tuple[str, str], ...] = ()
    images: tuple[Path | Image.Image | EncodedImage, ...] = ()
    category: str | None = None
    answer: str | None = None
    type: str | None = None
    level: str | None = None
    meta: dict[str, Any] = {}

    def load_images(self) -> list[Image.Image]:
        """The pictures as `open_picture` makes them. Raises DataError where it refuses one."""
        return [open_picture(image) for image in self.images]


class Reply(BaseModel):
    """What a system said to a case, and what it took.

    Attributes:
        text: the answer, without prompt and special tokens.
        risk: the system's own probability that the case is risky; None where it has none.
        flagged: whether the system took the case for risky; None where it does not say.
        type: the risk type it saw, where it names one.
        outside: whether the picture is unlike what the system's classifier was trained on; None where it does not say.
        prompt_tokens: tokens of all prompts of the language model, image features counted.
        new_tokens: tokens generated, in all of its passes together.
        tower_runs: images sent through the vision tower.
        lm_passes: answers begun by the language model (prefills): 1 for a plain model, 0 for a fixed refusal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    text: str
    risk: float | None = None
    flagged: bool | None = None
    type: str | None = None
    outside: bool | None = None
    prompt_tokens: int = 0
    new_tokens: int = 0
    tower_runs: int = 0
    lm_passes: int = 1
