"""Two forms of one call of `generate`: the original llava package's, and transformers', which the guard speaks.

| | package | guard |
|---|---|---|
| image in the ids | one -200 | one image token per image feature |
| `images` / `pixel_values` | one per image, one for a row without any | one per image |
| answer | the new tokens | prompt and new tokens |
| callbacks see | the new tokens | prompt and new tokens |

Pure bookkeeping on ids; knows no model.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch

from safety_modules.backbones.base import images_of_rows
from safety_modules.backbones.generation import seen_through, with_prompts
from safety_modules.errors import GuardError, PromptError


class CallForm(NamedTuple):
    """What both forms depend on: id of the image token, id for padding, features of each image (N, C, H, W)."""

    image_token_id: int
    pad_token_id: int
    patch_counts: Callable[[torch.Tensor], list[int]]

    def answer(self, generate: Callable[..., Any], inputs: Any, images: Any, **kwargs: Any) -> Any:
        """A call in the package's form, answered by a `generate` in the guard's form.

        Raises:
            GuardError: there are no ids, or the images are not plain pictures.
            PromptError: image tokens and images do not match.
        """
        if inputs is None:
            raise GuardError("call not guarded: expected inputs, got none. Pass the ids of the prompts.")
        mask = kwargs.pop("attention_mask", None)
        rows = _rows(inputs, mask)
        counts = [row.count(self.image_token_id) for row in rows]
        pixels = _pictures(images)
        if pixels is not None:
            expected = sum(max(count, 1) for count in counts)
            if len(pixels) != expected:
                raise PromptError(
                    f"images and prompts do not match: expected {expected} images, one per image token and one for "
                    f"each row without any, got {len(pixels)}. Pass as many."
                )
            if not all(counts):
                real = [flag for count in counts for flag in ([True] * count or [False])]
                pixels = pixels[torch.tensor(real, device=pixels.device)]
                pixels = pixels if len(pixels) else None
        if any(counts) and pixels is not None:
            patches = iter(self.patch_counts(pixels))
            repeated = [[[i] * next(patches) if i == self.image_token_id else [i] for i in row] for row in rows]
            ids, mask = self._padded([list(chain(*row)) for row in repeated], inputs)
        else:
            ids, mask = inputs, torch.ones_like(inputs) if mask is None else mask
        width = ids.shape[1]
        kwargs |= seen_through(lambda seen, _row: seen[:, width:], kwargs)
        output = generate(input_ids=ids, attention_mask=mask, pixel_values=pixels, **kwargs)
        if isinstance(output, torch.Tensor):
            return output[:, width:]
        output.sequences = output.sequences[:, width:]
        return output

    def ask(
        self,
        generate: Callable[..., Any],
        lengths: Sequence[Sequence[int]] | None,
        kwargs: dict[str, Any],
        per_row: int = 1,
    ) -> Any:
        """A call in the guard's form, answered by a `generate` in the package's form.

        Args:
            generate: the package's.
            lengths: per row the number of image tokens of each of its images; None = as the images say.
            kwargs: of the call.
            per_row: how many row numbers `generate` counts for each prompt.
        """
        kwargs = dict(kwargs)
        ids, pixels = kwargs.pop("input_ids"), kwargs.pop("pixel_values", None)
        mask = kwargs.pop("attention_mask", None)
        rows = _rows(ids, mask)
        if lengths is None:
            tokens = [row.count(self.image_token_id) for row in rows]
            lengths = images_of_rows(tokens, [] if pixels is None else self.patch_counts(pixels))
        if lengths is None:
            raise PromptError(
                f"images and prompts do not match: expected as many image tokens as the images have features, got "
                f"{tokens} in the rows. Build prompts and images with one processor."
            )
        inputs = ids
        if any(lengths):
            inputs, mask = self._padded([self._collapsed(*row) for row in zip(rows, lengths, strict=True)], ids)
        if pixels is not None and not all(lengths):
            left = iter(pixels)
            nothing = torch.zeros_like(pixels[0])
            pixels = torch.stack([pixel for row in lengths for pixel in ([next(left) for _ in row] or [nothing])])

        whole = with_prompts(ids, 0, per_row)
        output = generate(inputs, images=pixels, attention_mask=mask, **kwargs | seen_through(whole, kwargs))
        if isinstance(output, torch.Tensor):
            return whole(output, None)
        output.sequences = whole(output.sequences, None)
        return output

    def _collapsed(self, row: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """One image token for each run of them; adjacent images are told apart by their lengths."""
        found, left, at = [], iter(lengths), 0
        while at < len(row):
            found.append(row[at])
            at += next(left) if row[at] == self.image_token_id else 1
        return found

    def _padded(self, rows: Sequence[Sequence[int]], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded ids (B, T) and their mask."""
        width = max(map(len, rows))
        ids = [[self.pad_token_id] * (width - len(row)) + list(row) for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return like.new_tensor(ids), like.new_tensor(mask)


def _rows(ids: torch.Tensor, mask: torch.Tensor | None) -> list[list[int]]:
    """Ids without padding."""
    if mask is None:
        return ids.tolist()
    return [row[keep].tolist() for row, keep in zip(ids, mask.bool(), strict=True)]


def _pictures(images: Any) -> torch.Tensor | None:
    """Images (N, C, H, W) from a tensor or a list of equal pictures (C, H, W)."""
    if isinstance(images, list) and len({tuple(image.shape) for image in images}) == 1 and images[0].ndim == 3:
        return torch.stack(images)
    if images is None or (isinstance(images, torch.Tensor) and images.ndim == 4):
        return images
    raise GuardError(
        "call not guarded: expected images as (N, C, H, W) or a list of equal (C, H, W), got tiles or pictures of "
        "several sizes. Pass what process_images gives for a LLaVA-1.5 model."
    )
