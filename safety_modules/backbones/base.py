"""What the package needs from a base model. Only backbones know a base's attribute names."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from safety_modules.config import BaseSizes


class ImageFeatures(NamedTuple):
    """What one run of the vision tower gives.

    Attributes:
        vision: features of the selected layer, class token dropped (h_o): (N, P, Dv).
        projected: what the language model sees as each image (h_i): N tensors (P, D).
    """

    vision: torch.Tensor
    projected: list[torch.Tensor]


def images_of_rows(tokens: Sequence[int], patches: Sequence[int]) -> list[list[int]] | None:
    """Images shared out to the rows of a batch: per row, the number of image tokens of each of its images.

    Args:
        tokens: image tokens in each row.
        patches: image tokens of each image, in order (`Backbone.patch_counts`).

    Returns:
        None where they do not match.
    """
    left, rows = list(patches), []
    for count in tokens:
        row: list[int] = []
        while left and sum(row) < count:
            row.append(left.pop(0))
        rows.append(row)
    return None if left or list(map(sum, rows)) != list(tokens) else rows


class Backbone(Protocol):
    """One base model, seen through the few things guarding needs.

    Attributes:
        model: the base model itself.
        processor: its processor.
        sizes: sizes read from the model.
        image_token: what stands for an image in a prompt's text.
        image_token_id: the id that stands for one image feature in `input_ids`.
        pad_token_id: the id used for padding.
        vision_tower: the vision encoder: pixels in, hidden states out.
        projector: from the tower's features to the language model's width.
        language_model: the module LoRA goes on.
        blocks: the language model's blocks, in order.
        final_norm: behind the last block; gives the last hidden states (B, T, D).
        lock: a reentrant lock, one per model; held around everything that changes what the model computes.
    """

    model: Any
    processor: Any
    sizes: BaseSizes
    image_token: str
    image_token_id: int
    pad_token_id: int
    lock: Any

    @property
    def vision_tower(self) -> nn.Module: ...

    @property
    def projector(self) -> nn.Module: ...

    @property
    def language_model(self) -> nn.Module: ...

    @property
    def blocks(self) -> nn.ModuleList: ...

    @property
    def final_norm(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    def check_guardable(self) -> None:
        """Refuse a model whose calls would not come by. Raises AttachError, by name."""

    def install(self, generate: Callable[..., Any]) -> None:
        """Route the model's `generate(...)` to this function. Nothing else about the model changes.

        Raises:
            AttachError: safety is on the model already, or cannot be. Nothing changed.
        """

    def uninstall(self) -> None:
        """Put back exactly what `install` found. Raises AttachError if somebody replaced what it put there."""

    def base_generate(self, **kwargs: Any) -> Any:
        """The base's own `generate`."""

    def encode_images(self, pixel_values: torch.Tensor, layer: int | None = None) -> ImageFeatures:
        """Run the vision tower and the base's projector once; with gradients, unless under `torch.no_grad()`.

        Args:
            pixel_values: (N, C, H, W).
            layer: of the tower, as in transformers' `hidden_states`: 0 = the embeddings' output, -1 = the last layer's;
                None = the one the base itself uses.

        Raises:
            ConfigError: the tower has no such layer, or the base uses several together.
        """

    def project(self, vision: torch.Tensor) -> list[torch.Tensor]:
        """The base's projector alone, on features (N, P, Dv) at hand already: `ImageFeatures.projected`.

        With gradients, unless under `torch.no_grad()`.
        """

    def pixel_values(self, images: Sequence[Any]) -> torch.Tensor:
        """Pictures as the base's processor prepares them: (N, C, H, W)."""

    def pixel_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The lowest and the highest of `pixel_values` that a picture can have, each (C,) in float32.

        What is added to pixels (a border, a perturbation) stays a picture as long as it is kept between them.
        """

    def patch_counts(self, pixel_values: torch.Tensor) -> list[int]:
        """How many image tokens each of these images takes in a prompt; see `images_of_rows`."""

    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings (B, T, D) of token ids (B, T); never with gradients."""

    def planned(
        self, features: Sequence[torch.Tensor], images_per_row: Sequence[int] | None = None
    ) -> AbstractContextManager[None]:
        """Inside this block the model uses these features, (n_i, D) per image, and runs no tower."""

    def pixel_stub(self, images: int) -> torch.Tensor | None:
        """What to pass as `pixel_values` beside planned features; None without images."""

    def prompt(self, question: str, images: int = 1) -> str:
        """The base's prompt for a question about images, as text."""

    def prompt_ids(self, question: str, images: int = 1) -> list[int]:
        """Ids of the base's prompt for a question about images, as its processor would give them."""

    def whole_text(self, ids: Sequence[int]) -> list[int]:
        """All that is said in a prompt, as ids: no system message, no place of the answer, no special tokens."""

    def readings(self, ids: Sequence[int]) -> list[list[int]]:
        """What a prompt is to be judged by, the riskiest counts: `whole_text` first, then parts of it asked alone."""

    def insert_hint(self, ids: Sequence[int], hint: str, gap: str = " ") -> list[int]:
        """Ids with the hint after the last user turn, no begun answer. Raises PromptError if there is no place."""

    def answer_ids(self, answer: str, end: bool = True) -> list[int]:
        """Ids of an answer as they follow the prompt; with `end`, the end-of-sequence id is added."""

    def fingerprint(self, version: int = 2) -> dict[str, Any]:
        """What identifies this base: architecture, sizes, digests of its weights. JSON-able.

        Computed once, and again only after something was written to, moved or put in place of those weights.

        Args:
            version: of the digests (`identity.DIGEST_VERSION`).
        """

    def pixel_settings(self) -> dict[str, Any]:
        """The processor's settings that change pixels. JSON-able."""
