"""LLaVA-1.5 as transformers has it (`LlavaForConditionalGeneration`), 4.57 to the newest, through one seam.

Every version's `LlavaModel.forward` gets its image features from `self.get_image_features(...)`. While features are
planned that method returns these, which may be longer for some images than for others, and runs no vision tower. Both
classes are swapped for static subclasses with the same names; the class a checkpoint records is therefore the base's
own.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from safety_modules.backbones import identity
from safety_modules.backbones.base import (
    HANDLER,
    Backbone,
    ImageFeatures,
    named_as_base,
    no_copies,
    planned_features,
)
from safety_modules.backbones.chat import ChatFormat, encode
from safety_modules.backbones.pixels import processed
from safety_modules.backbones.weights import linears_of, unwrapped, without_peft
from safety_modules.config import BaseSizes
from safety_modules.errors import AttachError
from safety_modules.pictures import open_picture

# From 5.0 on get_image_features returns an output object, before that the list itself.
_RETURNS_OUTPUT = int(transformers.__version__.split(".")[0]) >= 5
_NEVER_COPIED = {"__reduce_ex__": no_copies}


def planned(base: type[Any]) -> type[Any]:
    """A subclass whose image features can be planned; without planned ones it is the base's inner model."""

    @functools.wraps(base.get_image_features)
    def get_image_features(self: Any, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows = planned_features(self)
        if rows is None:
            return base.get_image_features(self, pixel_values, *args, **kwargs)
        # Before 5.20 beams and num_return_sequences repeat pixel_values: B x n rows arrive, each row n times.
        repeats = len(pixel_values) // sum(len(row) for row in rows)
        features = [feature for row in rows for _ in range(repeats) for feature in row]
        # A fresh list each time: generate's beam expansion writes into it.
        return BaseModelOutputWithPooling(pooler_output=features) if _RETURNS_OUTPUT else features

    return named_as_base(type("Planned", (base,), {"get_image_features": get_image_features, **_NEVER_COPIED}))


def guarded(base: type[Any]) -> type[Any]:
    """A subclass whose `generate` is guarded; `forward` is the base's own.

    `generate` takes three arguments more: `safety` (False = the base's own answer, or one bool per row, or either by
    the name of a defence), `policy` and `batch_mode`.
    """

    @functools.wraps(base.generate)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if planned_features(self.model) is not None:  # generate calling generate inside a guarded call
            return base.generate(self, *args, **kwargs)
        names = list(inspect.signature(base.generate).parameters)[1:]
        return vars(self)[HANDLER](**dict(zip(names, args, strict=False)), **kwargs)

    return named_as_base(type("Guarded", (base,), {"generate": generate, **_NEVER_COPIED}))


PlannedLlavaModel = planned(LlavaModel)
GuardedLlava = guarded(LlavaForConditionalGeneration)


class HFModules:
    """The parts of transformers' LLaVA-1.5 by the field's names; enough where there is no processor.

    Args:
        model: a LlavaForConditionalGeneration; its weights may be on the meta device.
    """

    select_strategy = "default"
    """Of the tower's features: the class token is dropped."""

    def __init__(self, model: Any) -> None:
        self.model: Any = model

    @property
    def vision_tower(self) -> nn.Module:
        return self.model.model.vision_tower

    @property
    def projector(self) -> nn.Module:
        return self.model.model.multi_modal_projector

    @property
    def language_model(self) -> nn.Module:
        return without_peft(self.model.model.language_model)

    @property
    def blocks(self) -> nn.ModuleList:
        language: Any = unwrapped(self.language_model)
        return language.layers

    @property
    def most_in_a_picture(self) -> int:
        """Pictures that the tower sees of one, at most: its tiles."""
        return 1

    def read_sizes(self) -> BaseSizes:
        """Sizes from the model's config and its first block.

        Raises:
            AttachError: the language model does not see plain patch features.
        """
        config = self.model.config
        vision, text = config.vision_config, config.text_config
        if config.vision_feature_select_strategy != self.select_strategy:
            raise AttachError(
                f"base not supported: expected vision_feature_select_strategy {self.select_strategy!r} (no class token "
                f"among the features), got {config.vision_feature_select_strategy!r}. Use a checkpoint as published."
            )
        side = vision.image_size // vision.patch_size
        layers = config.vision_feature_layer
        return BaseSizes(
            vision_width=vision.hidden_size * (1 if isinstance(layers, int) else len(layers)),
            text_width=text.hidden_size,
            num_patches=side * side,
            grid=(side, side),
            vocab_size=text.vocab_size,
            num_layers=text.num_hidden_layers,
            linears=linears_of(self.blocks[0]),
        )


class HFLlava(HFModules, Backbone):
    """Backbone for transformers' LLaVA-1.5.

    Args:
        model: a LlavaForConditionalGeneration (not a subclass), any dtype, quantised or not.
        processor: its LlavaProcessor.

    Raises:
        AttachError: safety is attached already, or the model's or processor's settings are not supported.
    """

    guarded_classes: tuple[type[Any], type[Any]] = (GuardedLlava, PlannedLlavaModel)
    """In the place of the classes of the model, and of the model in it, while safety is on it."""

    def __init__(self, model: Any, processor: Any) -> None:
        HFModules.__init__(self, model)
        sizes = self.read_sizes()
        image_token_id = int(model.config.image_token_id)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None or getattr(processor, "image_processor", None) is None:
            raise AttachError(
                "processor not usable: expected a LlavaProcessor with tokenizer and image_processor, got "
                f"{type(processor).__name__}. Load it with AutoProcessor.from_pretrained."
            )
        token = getattr(processor, "image_token", "<image>")
        got = tokenizer.convert_tokens_to_ids(token)
        if got != image_token_id:
            raise AttachError(
                f"processor does not belong to the model: expected {token!r} to have id "
                f"{image_token_id}, got {got}. Load both from the same checkpoint."
            )
        self._check_image_tokens(processor, token, image_token_id, sizes)
        chat = self._chat_format(processor, image_token_id)
        Backbone.__init__(self, model, processor, sizes, chat, model.config.text_config.model_type)

    def _chat_format(self, processor: Any, image_token_id: int) -> ChatFormat:
        return ChatFormat(processor.tokenizer, image_token_id, _template(processor))

    def _check_image_tokens(self, processor: Any, token: str, image_token_id: int, sizes: BaseSizes) -> None:
        check_image_tokens(processor, token, image_token_id, sizes.num_patches)

    @property
    def _guarded(self) -> Sequence[tuple[nn.Module, type[nn.Module]]]:
        outer, inner = self.guarded_classes
        return (self.model, outer), (self.model.model, inner)

    def _encode(self, prompt: str) -> list[int]:
        return encode(self.processor.tokenizer, prompt, special=True)

    def base_generate(self, **kwargs: Any) -> Any:
        if not _RETURNS_OUTPUT and planned_features(self.model.model) is not None:
            # Before 5.0 an assistant gets the pixels, whose features the steered prompt has no room for. It only
            # proposes tokens, which the model checks: without it the answer is the same.
            kwargs.pop("assistant_model", None)
        base: Any = self.guarded_classes[0].__bases__[0]
        return base.generate(self.model, **kwargs)

    def encode_images(self, pixel_values: Any, layer: int | None = None) -> ImageFeatures:
        return ImageFeatures(*self._run_tower(pixel_values.to(self.device), layer))

    def _run_tower(self, pixels: torch.Tensor, layer: int | None, **options: Any) -> tuple[torch.Tensor, list[Any]]:
        """What enters the base's projector, and what its `get_image_features` makes of it."""
        if layer is not None:  # as a list: transformers 5.23 takes a single 0 for "no hidden states"
            options["vision_feature_layer"] = [self._tower_layer(layer)]
        base: Any = self.guarded_classes[1].__bases__[0]
        thread, seen = threading.get_ident(), []

        def keep(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if threading.get_ident() == thread:
                seen.append(args[0])

        # What enters the base's projector is h_o, whatever layers and token the config selects.
        hook = self.projector.register_forward_pre_hook(keep)
        try:
            output = base.get_image_features(self.model.model, pixel_values=pixels, **options)
        finally:
            hook.remove()
        return seen[0], list(getattr(output, "pooler_output", output))

    def pixel_values(self, images: Sequence[Any]) -> torch.Tensor:
        pixels = [processed(self.processor.image_processor, open_picture(image)) for image in images]
        return torch.from_numpy(np.stack(pixels)).to(self.device)

    @property
    def final_norm(self) -> nn.Module:
        language: Any = unwrapped(self.language_model)
        return language.norm

    @property
    def _holders(self) -> Sequence[nn.Module]:
        return self.model, self.model.model

    @property
    def _feature_layer(self) -> Any:
        return self.model.config.vision_feature_layer

    def _first_digest(self) -> dict[str, Any]:
        tower: Any = self.vision_tower
        parts = [("", tower.get_input_embeddings()), ("", self.projector), ("", self.final_norm)]
        return identity.first_digest(parts, adapted=[tower, self.projector])


_TOKEN_SETTINGS = ("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy")


def check_image_tokens(processor: Any, token: str, image_token_id: int, expected: int) -> None:
    """Refuse a processor that gives a picture another number of tokens than the model gives it features."""
    got: Any
    try:
        picture = Image.new("RGB", (64, 64))
        got = list(processor(images=picture, text=token)["input_ids"][0]).count(image_token_id)
    except Exception as error:  # the processor's, of whatever kind, and about a setting that is missing
        got = f"{type(error).__name__}: {str(error).rstrip('.')}"
    if got != expected:
        settings = ", ".join(f"{name}={getattr(processor, name, None)!r}" for name in _TOKEN_SETTINGS)
        raise AttachError(
            f"processor does not fit the model: expected {expected} image tokens for a picture, got {got} "
            f"({settings}). Load it with AutoProcessor from the model's own checkpoint, or correct these settings."
        )


def _template(processor: Any) -> Callable[[str], str] | None:
    """A user's turn by the processor's own chat template; None where it has none."""
    if getattr(processor, "chat_template", None) is None:
        return None
    return lambda text: str(
        processor.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": text}]}], tokenize=False)
    )
