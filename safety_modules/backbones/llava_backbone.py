"""What the code bases of LLaVA-1.5 have in common: chat and prompts, the way in and out of a model, its embeddings.

Does not cover calls, image features, sizes and settings: every code base names these in its own way.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from safety_modules.backbones.chat import ChatFormat
from safety_modules.config import BaseSizes
from safety_modules.errors import PromptError

HANDLER = "_safety_generate"
"""The attribute of a guarded model that holds what its `generate` is routed to."""

Class = TypeVar("Class", bound=type)


def named_as_base(guarded: Class) -> Class:
    """The class, under the name and module of the base class it stands in for.

    transformers decides by a class's name and module what a checkpoint's tensors are called, which class its config
    records and which attention it may use: a class that takes a model's place must not look like anybody's own code.
    """
    base = guarded.__bases__[0]
    guarded.__name__, guarded.__module__ = base.__name__, base.__module__
    return guarded


def is_guarded(model: Any) -> bool:
    """Whether safety is on this model."""
    return HANDLER in vars(model)


class LlavaBackbone(ABC):
    """Backbone for LLaVA-1.5, whoever's code it is. Attributes and methods: see `backbones.base.Backbone`.

    Args:
        model: the base model.
        processor: its `tokenizer` and `image_processor`.
        sizes: read from the model.
        chat: finds and writes the parts of the model's prompts.
    """

    def __init__(self, model: Any, processor: Any, sizes: BaseSizes, chat: ChatFormat) -> None:
        self.model = model
        self.processor = processor
        self.lock: Any = threading.RLock()
        self.sizes = sizes
        self.chat = chat
        self.prompt = chat.prompt
        self.whole_text = chat.whole_text
        self.readings = chat.readings
        self.insert_hint = chat.insert_hint
        self.answer_ids = chat.answer_ids
        self.image_token_id = chat.image_token_id
        pad, end = chat.tokenizer.pad_token_id, chat.tokenizer.eos_token_id
        self.pad_token_id = int(end if pad is None else pad)

    @property
    @abstractmethod
    def _guarded(self) -> Sequence[tuple[nn.Module, type[nn.Module]]]:
        """The modules whose class is another one while safety is on the model, and that class: a subclass of theirs."""

    @property
    @abstractmethod
    def _projector(self) -> nn.Module:
        """The base's projector."""

    @abstractmethod
    def _encode(self, prompt: str) -> list[int]:
        """Ids of a prompt as the base's own code makes them, one image token for each image."""

    @property
    def device(self) -> torch.device:
        # Offloaded parameters are on the meta device until their hook brings them in.
        devices = (parameter.device for parameter in self.model.parameters())
        return next((device for device in devices if device.type != "meta"), torch.device("cpu"))

    def install(self, generate: Callable[..., Any]) -> None:
        vars(self.model)[HANDLER] = generate
        for module, guarded in self._guarded:
            module.__class__ = guarded

    def uninstall(self) -> None:
        for module, guarded in self._guarded:
            module.__class__ = guarded.__bases__[0]
        vars(self.model).pop(HANDLER, None)

    @torch.no_grad()
    def project(self, vision: torch.Tensor) -> list[torch.Tensor]:
        # The model's dtype is that of its floating-point parameters; a quantised linear's weight would say uint8.
        return list(self._projector(vision.to(self.device, self.model.dtype)))

    @torch.no_grad()
    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        # The module, never its weight: an offloaded embedding is brought in by a hook. Another hook, of activation
        # checkpointing, makes its output require gradients.
        return self.model.get_input_embeddings()(ids.to(self.device)).detach()

    def pixel_stub(self, images: int) -> torch.Tensor | None:
        return torch.zeros(images, 1, device=self.device) if images else None

    def prompt_ids(self, question: str, images: int = 1) -> list[int]:
        ids = self._encode(self.prompt(question, images))
        if ids.count(self.image_token_id) != images:
            raise PromptError(
                f"question not usable: expected {images} image placeholders in the prompt, got "
                f"{ids.count(self.image_token_id)}. Take the image token out of the question."
            )
        return [i for i in ids for _ in range(self.sizes.num_patches if i == self.image_token_id else 1)]
