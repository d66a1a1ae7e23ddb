"""Reading the prompts and images out of a call of `generate`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from safety_modules.backbones import Backbone
from safety_modules.backbones.generation import option
from safety_modules.defences.guard.options import pad_id
from safety_modules.errors import GuardError, PromptError

# The guard could not see, or not re-plan, images that come in by these.
_HIDDEN_IMAGES = (
    "inputs_embeds",
    "mm_encoder_outputs",
    "image_sizes",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)


class Batch(NamedTuple):
    """The caller's prompts: ids and mask (B, T), pixels (N, C, H, W) or None, number of images of each row."""

    ids: torch.Tensor
    mask: torch.Tensor
    pixels: torch.Tensor | None
    counts: list[int]

    def images_of(self, rows: Sequence[int]) -> list[int]:
        """Indices into pixels of the images of these rows."""
        ends = torch.tensor([0, *self.counts]).cumsum(0).tolist()
        return [image for row in rows for image in range(ends[row], ends[row + 1])]

    def pixels_of(self, rows: Sequence[int]) -> torch.Tensor:
        """Pixels of the images of these rows."""
        assert self.pixels is not None, "only asked for where there are images"
        return self.pixels[self.images_of(rows)]

    def prompt(self, row: int) -> list[int]:
        """Ids of a row without padding."""
        return self.ids[row][self.mask[row].bool()].tolist()


def read_batch(backbone: Backbone, kwargs: dict[str, Any]) -> Batch:
    """The prompts and images of a call.

    Raises:
        GuardError: images come in where the guard cannot judge them.
        PromptError: image tokens and images do not match.
    """
    hidden = [name for name in _HIDDEN_IMAGES if kwargs.get(name) is not None]
    if hidden:
        raise GuardError(
            f"call not guarded: expected input_ids and pixel_values, got {', '.join(hidden)}, in which the "
            "guard cannot judge images. Pass input_ids and pixel_values, or safety=False."
        )
    pixels, ids = kwargs.get("pixel_values"), kwargs.get("input_ids")
    if ids is None:
        ids = kwargs.get("inputs")
    if ids is None and pixels is None:
        ids = torch.empty(1, 0, dtype=torch.long)  # generate then begins with the start token
    if ids is None:
        raise GuardError("call not guarded: expected input_ids, got none. Pass all the processor gave.")
    for name, value, axes in (("input_ids", ids, 2), ("pixel_values", pixels, None)):
        if value is not None and not (isinstance(value, torch.Tensor) and axes in (None, value.ndim)):
            raise GuardError(
                f"call not guarded: expected {name} as a tensor{' (B, T)' if axes else ''}, got {_form(value)}. Pass "
                'what the processor gave, by name: generate(**processor(..., return_tensors="pt")).'
            )
    tokens = (ids == backbone.image_token_id).sum(1).tolist()
    counts = [count // backbone.sizes.num_patches for count in tokens]
    got = 0 if pixels is None else len(pixels)
    if sum(counts) != got or any(count % backbone.sizes.num_patches for count in tokens):
        raise PromptError(
            f"images and prompts do not match: expected {backbone.sizes.num_patches} image tokens for each "
            f"of {got} images, got {tokens} per row. Pass input_ids and pixel_values of one processor call."
        )
    mask = kwargs.get("attention_mask")
    if mask is None:
        mask = _infer_mask(backbone, ids, kwargs)
    return Batch(ids, mask, pixels, counts)


def _form(value: Any) -> str:
    return f"one of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def _infer_mask(backbone: Backbone, ids: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    """As generate does without a mask: pads are masked, unless the pad id also ends sequences."""
    pad = pad_id(backbone, kwargs)
    eos = option(backbone.model, kwargs, "eos_token_id")
    ends = [] if eos is None else torch.as_tensor(eos).flatten().tolist()
    return torch.ones_like(ids) if pad in ends else (ids != pad).long()
