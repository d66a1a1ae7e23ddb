"""LLaVA-1.5 as transformers has it (`LlavaForConditionalGeneration`), 4.57 to the newest, through one seam.

Every version's `LlavaModel.forward` gets its image features from `self.get_image_features(...)`. While a plan
is active that method returns the planned features, which may be longer for some images than for others, and
runs no vision tower. Both classes are swapped for static subclasses with the same names; the class a
checkpoint records is therefore the base's own.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import transformers
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from safety_modules.backbones import identity
from safety_modules.backbones.adapted import without_peft
from safety_modules.backbones.base import ImageFeatures
from safety_modules.backbones.chat import ChatFormat
from safety_modules.backbones.planning import current_plan, planned
from safety_modules.errors import AttachError, PromptError

# From 5.0 on get_image_features returns an output object, before that the list itself.
_RETURNS_OUTPUT = int(transformers.__version__.split(".")[0]) >= 5
_HANDLER = "_safety_generate"


class PlannedLlavaModel(LlavaModel):
    """LlavaModel whose image features can be planned; without a plan it is LlavaModel."""

    @functools.wraps(LlavaModel.get_image_features)
    def get_image_features(self, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        plan = current_plan(self)
        if plan is None:
            return super().get_image_features(pixel_values, *args, **kwargs)
        # Before 5.20 beams and num_return_sequences repeat pixel_values: B x n rows arrive, each row n times.
        repeats = len(pixel_values) // sum(len(row) for row in plan.rows)
        features = [feature for row in plan.rows for _ in range(repeats) for feature in row]
        # A fresh list each time: generate's beam expansion writes into it.
        return BaseModelOutputWithPooling(pooler_output=features) if _RETURNS_OUTPUT else features


class GuardedLlava(LlavaForConditionalGeneration):
    """LlavaForConditionalGeneration whose `generate` is guarded; `forward` is the base's own.

    `generate` takes three arguments more: `safety` (False = the base's own answer, or one bool per row), `policy` and
    `batch_mode`.
    """

    @functools.wraps(LlavaForConditionalGeneration.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        if current_plan(self.model) is not None:  # generate calling generate inside a guarded call
            return super().generate(*args, **kwargs)
        names = list(inspect.signature(LlavaForConditionalGeneration.generate).parameters)[1:]
        return vars(self)[_HANDLER](**dict(zip(names, args, strict=False)), **kwargs)


# transformers decides by a class's name and module what a checkpoint's tensors are called, which class its config
# records and which attention it may use: these classes must not look like anybody's own code.
for _own, _base in ((GuardedLlava, LlavaForConditionalGeneration), (PlannedLlavaModel, LlavaModel)):
    _own.__name__, _own.__module__ = _base.__name__, _base.__module__


class HFLlava:
    """Backbone for transformers' LLaVA-1.5. Attributes and methods: see `backbones.base.Backbone`.

    Args:
        model: a LlavaForConditionalGeneration (not a subclass), any dtype, quantised or not.
        processor: its LlavaProcessor.

    Raises:
        AttachError: safety is attached already, or the model's or processor's settings are not supported.
    """

    def __init__(self, model: LlavaForConditionalGeneration, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.lock: Any = threading.RLock()
        self.sizes = identity.read_sizes(model)
        self.image_token_id = int(model.config.image_token_id)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None or getattr(processor, "image_processor", None) is None:
            raise AttachError(
                "processor not usable: expected a LlavaProcessor with tokenizer and image_processor, got "
                f"{type(processor).__name__}. Load it with AutoProcessor.from_pretrained."
            )
        token = getattr(processor, "image_token", "<image>")
        got = tokenizer.convert_tokens_to_ids(token)
        if got != self.image_token_id:
            raise AttachError(
                f"processor does not belong to the model: expected {token!r} to have id "
                f"{self.image_token_id}, got {got}. Load both from the same checkpoint."
            )
        self.chat = ChatFormat(tokenizer, self.image_token_id)
        self.prompt = self.chat.prompt
        self.question_mask = self.chat.question_mask
        self.insert_hint = self.chat.insert_hint
        self.answer_ids = self.chat.answer_ids
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.pad_token_id = int(pad)

    @property
    def language_model(self) -> nn.Module:
        return without_peft(self.model.model.language_model)

    @property
    def device(self) -> torch.device:
        # Offloaded parameters are on the meta device until their hook brings them in.
        devices = (parameter.device for parameter in self.model.parameters())
        return next((device for device in devices if device.type != "meta"), torch.device("cpu"))

    def install(self, generate: Callable[..., Any]) -> None:
        vars(self.model)[_HANDLER] = generate
        self.model.__class__ = GuardedLlava
        self.model.model.__class__ = PlannedLlavaModel

    def uninstall(self) -> None:
        self.model.__class__ = LlavaForConditionalGeneration
        self.model.model.__class__ = LlavaModel
        vars(self.model).pop(_HANDLER, None)

    def base_generate(self, **kwargs: Any) -> Any:
        return LlavaForConditionalGeneration.generate(self.model, **kwargs)

    @torch.no_grad()
    def encode_images(self, pixel_values: torch.Tensor) -> ImageFeatures:
        inner = self.model.model
        thread, seen = threading.get_ident(), []

        def keep(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if threading.get_ident() == thread:
                seen.append(args[0])

        # What enters the base's projector is h_o, whatever layers and token the config selects.
        hook = inner.multi_modal_projector.register_forward_pre_hook(keep)
        try:
            output = LlavaModel.get_image_features(inner, pixel_values=pixel_values.to(self.device))
        finally:
            hook.remove()
        return ImageFeatures(seen[0], list(getattr(output, "pooler_output", output)))

    @torch.no_grad()
    def project(self, vision: torch.Tensor) -> list[torch.Tensor]:
        # The model's dtype is that of its floating-point parameters; a quantised linear's weight would say uint8.
        return list(self.model.model.multi_modal_projector(vision.to(self.device, self.model.dtype)))

    def pixel_values(self, images: Sequence[Any]) -> torch.Tensor:
        pixels = self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels.to(self.device)

    @torch.no_grad()
    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        # The module, never its weight: an offloaded embedding is brought in by a hook. Another hook, of activation
        # checkpointing, makes its output require gradients.
        return self.model.get_input_embeddings()(ids.to(self.device)).detach()

    def planned(
        self, features: Sequence[torch.Tensor], images_per_row: Sequence[int] | None = None
    ) -> AbstractContextManager[None]:
        return planned(self.model.model, features, images_per_row)

    def pixel_stub(self, images: int) -> torch.Tensor | None:
        return torch.zeros(images, 1, device=self.device) if images else None

    def prompt_ids(self, question: str, images: int = 1) -> list[int]:
        ids = self.processor.tokenizer(self.chat.prompt(question, images))["input_ids"]
        if list(ids).count(self.image_token_id) != images:
            raise PromptError(
                f"question not usable: expected {images} image placeholders in the prompt, got "
                f"{list(ids).count(self.image_token_id)}. Take the image token out of the question."
            )
        return [i for i in ids for _ in range(self.sizes.num_patches if i == self.image_token_id else 1)]

    def fingerprint(self) -> dict[str, Any]:
        config, inner = self.model.config, self.model.model
        parts = [
            ("", inner.vision_tower.get_input_embeddings()),
            ("", inner.multi_modal_projector),
            ("", self.language_model.norm),
        ]
        digest = identity.digest(parts, adapted=[inner.vision_tower, inner.multi_modal_projector])
        text_model = config.text_config.model_type
        return identity.fingerprint(config.vision_config, text_model, config.vision_feature_layer, self.sizes, digest)

    def pixel_settings(self) -> dict[str, Any]:
        return identity.pixel_settings(self.processor.image_processor)
