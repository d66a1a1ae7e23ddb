"""LLaVA-1.5 as its original package has it: `llava.model.LlavaLlamaForCausalLM`, `llava-torch` on PyPI.

The guard speaks transformers' form of a call: an image token per image feature, prompt and answer in one
sequence. The package's form has one -200 per image, a stand-in image for rows without any, and answers without
the prompt; `llava_calls.py` translates. While features are planned `encode_images` returns these.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from PIL import Image
from torch import nn
from transformers import LlamaForCausalLM

from safety_modules.backbones import identity
from safety_modules.backbones.base import (
    HANDLER,
    Backbone,
    ImageFeatures,
    named_as_base,
    no_copies,
    planned_features,
)
from safety_modules.backbones.chat import SplitChatFormat
from safety_modules.backbones.generation import rows_per_prompt
from safety_modules.backbones.llava_calls import CallForm
from safety_modules.backbones.pixels import check_size, named_faults, processed
from safety_modules.backbones.weights import linears_of, unwrapped
from safety_modules.config import BaseSizes
from safety_modules.errors import AttachError, GuardError
from safety_modules.pictures import open_picture

_GUARD_FORM = {"pixel_values", "logits_to_keep"}  # arguments that the package's own forward does not have


@named_as_base
class GuardedLlavaLlama(LlavaLlamaForCausalLM):
    """LlavaLlamaForCausalLM whose `generate` is guarded; `forward` is the base's own.

    `generate` takes three arguments more, those of `hf_llava.GuardedLlava`.
    """

    __reduce_ex__ = no_copies

    @functools.wraps(LlavaLlamaForCausalLM.encode_images)
    def encode_images(self, images: torch.Tensor) -> Any:
        rows = planned_features(self)
        if rows is None:
            return super().encode_images(images)
        # The package counts an image for a row without any, and takes nothing of it.
        nothing = torch.zeros(0, self.config.hidden_size, device=self.device, dtype=self.dtype)
        return [feature for row in rows for feature in row or [nothing]]

    @functools.wraps(LlavaLlamaForCausalLM.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        rows = planned_features(self)
        if rows is None or not _GUARD_FORM & kwargs.keys():
            if "cache" in kwargs:  # as `generate` calls it from transformers 5.24 on
                kwargs["past_key_values"] = kwargs.pop("cache")
            return super().forward(*args, **kwargs)
        ids, pixels = kwargs.pop("input_ids"), kwargs.pop("pixel_values", None)
        embeddings = self.get_model().embed_tokens(ids.clamp(min=0))
        if pixels is not None:
            features = torch.cat([feature for row in rows for feature in row]).to(embeddings)
            places = (ids == IMAGE_TOKEN_INDEX)[..., None].expand_as(embeddings)
            embeddings = embeddings.masked_scatter(places, features)
        return LlamaForCausalLM.forward(self, inputs_embeds=embeddings, **kwargs)

    @functools.wraps(LlavaLlamaForCausalLM.generate)
    def generate(self, inputs: Any = None, images: Any = None, image_sizes: Any = None, **kwargs: Any) -> Any:
        if planned_features(self) is not None:  # generate calling generate inside a guarded call
            return super().generate(inputs, images, image_sizes, **kwargs)
        return vars(self)[HANDLER](inputs, images, **kwargs)


class Processor(NamedTuple):
    """The two parts of a LlavaProcessor, which the package keeps apart."""

    tokenizer: Any
    image_processor: Any


class LlavaPackage(Backbone):
    """Backbone for the original package's LLaVA-1.5.

    Args:
        model: a LlavaLlamaForCausalLM (not a subclass) with its vision tower loaded.
        processor: its tokenizer, as `load_pretrained_model` returns it (the image processor is the tower's own),
            or anything with a `tokenizer` and an `image_processor`.

    Raises:
        AttachError: the model's settings or the tokenizer are not supported.
    """

    def __init__(self, model: LlavaLlamaForCausalLM, processor: Any) -> None:
        sizes = _read_sizes(model)
        tokenizer = getattr(processor, "tokenizer", processor)
        if not hasattr(tokenizer, "convert_tokens_to_ids") or len(tokenizer) > sizes.vocab_size:
            raise AttachError(
                "processor not usable: expected the model's tokenizer, got "
                f"{type(processor).__name__}. Pass the tokenizer that load_pretrained_model returns."
            )
        pictures = getattr(processor, "image_processor", None) or model.get_vision_tower().image_processor
        chat = SplitChatFormat(tokenizer, int(IMAGE_TOKEN_INDEX))
        # The package keeps the vision tower inside the language model, where LoRA must not find it.
        self._language_model = nn.Module()
        self._language_model.layers = model.get_model().layers
        super().__init__(model, Processor(tokenizer, pictures), sizes, chat, "llama")
        self._form = CallForm(self.image_token_id, self.pad_token_id, self.patch_counts)

    @property
    def language_model(self) -> nn.Module:
        return self._language_model

    @property
    def _guarded(self) -> Sequence[tuple[nn.Module, type[nn.Module]]]:
        return ((self.model, GuardedLlavaLlama),)

    @property
    def vision_tower(self) -> nn.Module:
        return self.model.get_vision_tower().vision_tower

    @property
    def projector(self) -> nn.Module:
        return self.model.get_model().mm_projector

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.get_model().layers

    def _encode(self, prompt: str) -> list[int]:
        return tokenizer_image_token(prompt, self.processor.tokenizer)

    def install(self, generate: Callable[..., Any]) -> None:
        super().install(functools.partial(self._form.answer, generate))

    def base_generate(self, **kwargs: Any) -> Any:
        rows = planned_features(self.model)
        lengths = None if rows is None else [[len(feature) for feature in row] for row in rows]
        if lengths is not None:
            self._check_planned(kwargs["input_ids"], kwargs.get("attention_mask"))
        generate = functools.partial(LlavaLlamaForCausalLM.generate, self.model)
        return self._form.ask(generate, lengths, kwargs, rows_per_prompt(self.model, kwargs))

    def _check_planned(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """The package cuts long prompts at the end, where the hint is, and pads short ones where the answer begins."""
        lengths = (torch.ones_like(ids) if mask is None else mask).sum(1).tolist()
        limit = getattr(self.model.config, "tokenizer_model_max_length", None)
        if limit is not None and max(lengths) > limit:
            raise GuardError(
                f"call not guarded: expected prompts of at most {limit} tokens (tokenizer_model_max_length), beyond "
                f"which the llava package cuts them, got {max(lengths)}. Shorten the prompt."
            )
        side = getattr(self.model.config, "tokenizer_padding_side", "right")
        if len(set(lengths)) > 1 and side != "left":
            raise GuardError(
                "call not guarded: expected model.config.tokenizer_padding_side 'left' for prompts of several "
                f"lengths in a batch, got {side!r}, with which the llava package answers the shorter ones from "
                "padding. Set it to 'left', or ask one by one."
            )

    def encode_images(self, pixel_values: torch.Tensor, layer: int | None = None) -> ImageFeatures:
        tower: Any = self.model.get_vision_tower()
        if layer is not None or torch.is_grad_enabled():
            tower = copy.copy(unwrapped(tower))  # another layer for this call alone; its modules are the same
            tower.select_layer = tower.select_layer if layer is None else self._tower_layer(layer)
            # The package's own forward never has gradients; below that it is the same.
            tower.forward = functools.partial(inspect.unwrap(type(tower).forward), tower)
        vision = tower(pixel_values.to(self.device))
        return ImageFeatures(vision, list(self.projector(vision)))

    def pixel_values(self, images: Sequence[Any]) -> torch.Tensor:
        pixels = [self._pixels(open_picture(image)) for image in images]
        return torch.cat(pixels).to(self.device, self.model.dtype)

    def _pixels(self, picture: Image.Image) -> torch.Tensor:
        """(1, C, H, W), squared as the package does it."""
        if getattr(self.model.config, "image_aspect_ratio", None) != "pad":
            return torch.from_numpy(processed(self.processor.image_processor, picture))[None]
        with named_faults(""):
            check_size(picture.size, self.processor.image_processor, pads=True)
            return process_images([picture], self.processor.image_processor, self.model.config)

    @property
    def final_norm(self) -> nn.Module:
        return self.model.get_model().norm

    @property
    def _holders(self) -> Sequence[nn.Module]:
        return self.model, self.model.get_model(), self.model.get_vision_tower()

    @property
    def _feature_layer(self) -> Any:
        return self.model.get_vision_tower().select_layer

    def _first_digest(self) -> dict[str, Any]:
        tower = self.model.get_vision_tower()
        linears = [part for part in self.projector.modules() if isinstance(part, nn.Linear)]
        parts = [
            ("", tower.vision_tower.get_input_embeddings()),
            *((f"linear_{number}.", linear) for number, linear in enumerate(linears, 1)),  # transformers' names
            ("", self.final_norm),
        ]
        return identity.first_digest(parts, adapted=[tower, self.projector])

    def pixel_settings(self) -> dict[str, Any]:
        pads = getattr(self.model.config, "image_aspect_ratio", None) == "pad"
        return super().pixel_settings() | ({"pad_to_square": True} if pads else {})


_EXPECTED = {
    "mm_patch_merge_type": ("flat",),
    "image_aspect_ratio": ("square", "pad"),
    "mm_vision_select_feature": ("patch",),
    "mm_use_im_start_end": (False,),
}


def _read_sizes(model: LlavaLlamaForCausalLM) -> BaseSizes:
    """Sizes from the model's config and its first block.

    Raises:
        AttachError: the vision tower is not loaded, or the language model does not see plain patch features.
    """
    config, tower = model.config, model.get_vision_tower()
    if tower is None or not tower.is_loaded:
        raise AttachError(
            "base not usable: expected a loaded vision tower, got none. "
            "Call model.get_vision_tower().load_model() first."
        )
    for name, expected in _EXPECTED.items():
        got = getattr(config, name, None) or expected[0]
        if got not in expected:
            raise AttachError(
                f"base not supported: expected {name} {' or '.join(map(repr, expected))}, got {got!r}. "
                "Use a LLaVA-1.5 checkpoint."
            )
    side = tower.num_patches_per_side
    return BaseSizes(
        vision_width=tower.hidden_size,
        text_width=config.hidden_size,
        num_patches=side * side,
        grid=(side, side),
        vocab_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        linears=linears_of(model.get_model().layers[0]),
    )
