"""What the package needs from a base model, and what the code bases of LLaVA-1.5 share of it. Only backbones know a
base's attribute names.
"""

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
from torch import nn

from safety_modules.backbones import identity
from safety_modules.backbones.chat import ChatFormat
from safety_modules.backbones.pixels import pixel_range
from safety_modules.backbones.weights import Watch, unwrapped
from safety_modules.config import BaseSizes
from safety_modules.errors import AttachError, ConfigError, PromptError

HANDLER = "_safety_generate"
"""The attribute of a guarded model that holds what its `generate` is routed to."""

ATTACHED = (
    "already attached: expected a base model, got one with safety modules. "
    "Detach the first set (detach_safety(model)), then attach again."
)

Class = TypeVar("Class", bound=type)

_LOCKS: "weakref.WeakKeyDictionary[nn.Module, Any]" = weakref.WeakKeyDictionary()
_NEW_LOCK = threading.Lock()


ImagesOfRows = list[list[torch.Tensor]]
"""Per row of a batch, the features (n_i, D) of each of its images."""

# A context variable, so that two threads that run the same model never see each other's features.
_PLANNED: ContextVar[tuple[nn.Module, ImagesOfRows] | None] = ContextVar("safety_modules_planned", default=None)


def planned_features(owner: nn.Module) -> ImagesOfRows | None:
    """What this module is to use in this thread's call instead of what its tower would give; None = the tower's."""
    planned = _PLANNED.get()
    return planned[1] if planned is not None and planned[0] is owner else None


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
    return HANDLER in getattr(model, "__dict__", ())


def lock_of(model: nn.Module) -> Any:
    """The model's reentrant lock, the same for everybody who asks."""
    with _NEW_LOCK:
        return _LOCKS.setdefault(model, threading.RLock())


def no_copies(*_args: Any) -> NoReturn:
    """In the place of whatever would copy or pickle a guarded model: the copy would be unguarded."""
    raise AttachError(
        "model not copied or pickled: expected a base model, got one with safety modules, whose copy would be "
        "unguarded. Detach first (safety.detach()); safety.save_pretrained writes the adapter, "
        "model.save_pretrained the base."
    )


class ImageFeatures(NamedTuple):
    """What one run of the vision tower gives.

    Attributes:
        vision: features of the selected layer, class token dropped (h_o): (N, P, Dv).
        projected: what the language model sees as each image (h_i): N tensors (P, D).
    """

    vision: torch.Tensor
    projected: list[torch.Tensor]


class Backbone(ABC):
    """One base model, seen through the few things guarding needs: a LLaVA-1.5, whoever's code it is.

    Args:
        model: the base model itself.
        processor: its `tokenizer` and `image_processor`.
        sizes: read from the model.
        chat: finds and writes the parts of the model's prompts; its methods are the backbone's own.
        text_model: transformers' name for the language model's architecture.

    Attributes:
        image_token: what stands for an image in a prompt's text.
        image_token_id: the id that stands for one image feature in `input_ids`.
        pad_token_id: the id used for padding.
        lock: a reentrant lock, one per model; held around everything that changes what the model computes.
        prompt: the base's prompt for a question about images, as text; this and the next five: see `ChatFormat`.
        whole_text: all that is said in a prompt, as ids.
        turns, parts: what a prompt is to be judged by, by a head that reads and by one that takes the mean.
        insert_hint: ids with the hint after the last user turn.
        answer_ids: ids of an answer as they follow the prompt.
    """

    def __init__(self, model: Any, processor: Any, sizes: BaseSizes, chat: ChatFormat, text_model: str) -> None:
        self.model = model
        self._text_model = text_model
        self.processor = processor
        self.lock: Any = lock_of(model)
        self.sizes = sizes
        self.chat = chat
        self.prompt = chat.prompt
        self.whole_text = chat.whole_text
        self.turns = chat.turns
        self.parts = chat.parts
        self.insert_hint = chat.insert_hint
        self.answer_ids = chat.answer_ids
        self.image_token_id = chat.image_token_id
        self.image_token = getattr(processor, "image_token", "<image>")
        pad, end = chat.tokenizer.pad_token_id, chat.tokenizer.eos_token_id
        self.pad_token_id = int(end if pad is None else pad)
        self._installed: list[tuple[nn.Module, type[nn.Module], type[nn.Module]]] = []
        self._known: tuple[Watch, dict[str, Any]] | None = None
        self.check_guardable()

    architecture = "LlavaForConditionalGeneration"
    """What the fingerprint calls this family, whoever's code it is."""

    @property
    @abstractmethod
    def vision_tower(self) -> nn.Module:
        """Pixels in, hidden states out."""

    @property
    @abstractmethod
    def projector(self) -> nn.Module:
        """From the tower's features to the language model's width."""

    @property
    @abstractmethod
    def language_model(self) -> nn.Module:
        """The module LoRA goes on."""

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The language model's, in order."""

    @property
    @abstractmethod
    def final_norm(self) -> nn.Module:
        """Behind the last block; gives the last hidden states (B, T, D)."""

    @property
    @abstractmethod
    def _holders(self) -> Sequence[nn.Module]:
        """The modules that hold tower, projector, blocks and norm."""

    @property
    @abstractmethod
    def _feature_layer(self) -> Any:
        """Which layer of the tower is the base's own."""

    @property
    @abstractmethod
    def _guarded(self) -> Sequence[tuple[nn.Module, type[nn.Module]]]:
        """The modules whose class is another one while safety is on the model, and that class: a subclass of theirs.

        The last of them asks for the planned features.
        """

    @abstractmethod
    def _encode(self, prompt: str) -> list[int]:
        """Ids of a prompt as the base's own code makes them, one image token for each image."""

    @abstractmethod
    def _first_digest(self) -> dict[str, Any]:
        """See `identity.first_digest`."""

    @abstractmethod
    def base_generate(self, **kwargs: Any) -> Any:
        """The base's own `generate`."""

    @abstractmethod
    def encode_images(self, pixel_values: torch.Tensor, layer: int | None = None) -> ImageFeatures:
        """Run the vision tower and the base's projector once; with gradients, unless under `torch.no_grad()`.

        Args:
            pixel_values: (N, C, H, W).
            layer: of the tower, as in transformers' `hidden_states`: 0 = the embeddings' output, -1 = the last layer's;
                None = the one the base itself uses.

        Raises:
            ConfigError: the tower has no such layer, or the base uses several together.
        """

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        """Those of the vision tower that make its features, in order."""
        layers, places = identity.used_layers(unwrapped(self.vision_tower), self._feature_layer)
        return list(layers)[: max(places)]

    def encode_with_class(self, pixel_values: torch.Tensor) -> ImageFeatures:
        """The same one run of the tower, and before the patches the class token behind its last layer: vision
        (N, 1 + P, Dv).

        Raises:
            ConfigError: the tower is no CLIP, or the base takes several layers, parts of pictures or a cut tower.
        """
        tower: Any = unwrapped(self.vision_tower)
        layers, places = identity.used_layers(tower, self._feature_layer)
        if tower.config.model_type != "clip_vision_model" or len(places) != 1:
            raise ConfigError(
                f"no class token: expected a CLIP tower of which one layer is used, got {tower.config.model_type} and "
                f"{len(places)} layers. Train a head on labelled pictures instead (safety-modules train --data)."
            )
        thread, seen = threading.get_ident(), []

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                seen.append((output if isinstance(output, torch.Tensor) else output[0])[:, :1])

        hook = layers[-1].register_forward_hook(keep)
        try:
            images = self.encode_images(pixel_values)
        finally:
            hook.remove()
        if len(seen) != 1 or len(seen[0]) != len(images.vision) or places[0] != len(layers) - 1:
            raise ConfigError(
                "no class token: expected one run of the whole tower for whole pictures, and the features that enter "
                f"its last layer, got {len(seen)} runs and features of layer {places[0]} of {len(layers)}. Train a "
                "head on labelled pictures instead (safety-modules train --data)."
            )
        return images._replace(vision=torch.cat([seen[0].to(images.vision), images.vision], 1))

    @abstractmethod
    def pixel_values(self, images: Sequence[Any]) -> torch.Tensor:
        """Pictures as the base's processor prepares them: (N, C, H, W); of a base with tiles, `tiles.Tiles`."""

    image_arguments: tuple[str, ...] = ("pixel_values",)
    """By which arguments of `generate` images come in."""

    def images_given(self, arguments: Mapping[str, Any]) -> Any:
        """The images among the arguments of a call, as `pixel_values` has them; None where there are none."""
        return arguments.get("pixel_values")

    def images_taken(self, pixel_values: Any) -> dict[str, Any]:
        """Images, as `pixel_values` has them, as arguments of a call."""
        return {"pixel_values": pixel_values}

    def are_images(self, pixel_values: Any) -> bool:
        """Whether this is what `pixel_values` gives."""
        return isinstance(pixel_values, torch.Tensor) and pixel_values.ndim == 4

    def joined(self, parts: Sequence[Any]) -> Any:
        """One batch of images of several, each as `pixel_values` has them."""
        return torch.cat([*parts])

    @property
    def device(self) -> torch.device:
        # Offloaded parameters are on the meta device until their hook brings them in.
        devices = (parameter.device for parameter in self.model.parameters())
        return next((device for device in devices if device.type != "meta"), torch.device("cpu"))

    def check_guardable(self) -> None:
        """Refuse a model whose calls would not come by. Raises AttachError, by name."""
        # accelerate's hooks stand in `forward`, and call the class's own.
        names = {name for _, guarded in self._guarded for name in vars(guarded)} - {"forward"}
        for module, guarded in self._guarded:
            base = guarded.__bases__[0]
            if type(module) not in (base, guarded):
                raise AttachError(
                    f"model not supported: expected {base.__name__} as it is, got {_name(module)}, which would run "
                    "unguarded. Take off what wraps or replaces it (torch.compile, sharding, a subclass), then attach."
                )
            own = sorted(names & vars(module).keys())
            if own:
                raise AttachError(
                    f"model not guarded: expected {base.__name__}'s own {own[0]}, got an attribute of this instance in "
                    f"its place (a profiler's, or a patch), which bypasses the guard. Delete the attribute {own[0]}, "
                    "then attach."
                )
        language = [(path, part) for path, part in self.language_model.named_modules() if "_orig_mod" in part._modules]
        if language:
            raise AttachError(
                f"model not supported: expected a language model as it is, got {_name(language[0][1])} at "
                f"{language[0][0] or 'its top'}, which would go on without the LoRA. Attach to the model before "
                "torch.compile."
            )

    def install(self, generate: Callable[..., Any]) -> None:
        """Route the model's `generate(...)` to this function. Nothing else about the model changes.

        Raises:
            AttachError: safety is on the model already, or cannot be. Nothing changed.
        """
        if is_guarded(self.model):
            raise AttachError(ATTACHED)
        self.check_guardable()
        self._installed = [(module, type(module), guarded) for module, guarded in self._guarded]
        vars(self.model)[HANDLER] = generate
        for module, _, guarded in self._installed:
            module.__class__ = guarded

    def uninstall(self) -> None:
        """Put back exactly what `install` found. Raises AttachError if somebody replaced what it put there."""
        changed = [module for module, _, guarded in self._installed if type(module) is not guarded]
        if changed:
            raise AttachError(
                f"not detached: expected the class that safety gave the model, got {_name(changed[0])}. Undo what "
                "replaced it since (sharding, say), then detach."
            )
        for module, found, _ in self._installed:
            module.__class__ = found
        self._installed = []
        vars(self.model).pop(HANDLER, None)

    @contextmanager
    def planned(self, features: Sequence[torch.Tensor], images_per_row: Sequence[int] | None = None) -> Iterator[None]:
        """Inside this block the model uses these features, (n_i, D) per image, and runs no tower."""
        left = iter(features)
        counts = [1] * len(features) if images_per_row is None else images_per_row
        rows = [[next(left) for _ in range(count)] for count in counts]
        token = _PLANNED.set((self._guarded[-1][0], rows))
        try:
            yield
        finally:
            _PLANNED.reset(token)

    @property
    def _beside_projector(self) -> Sequence[nn.Module]:
        """What else the language model sees of an image."""
        return ()

    @property
    def _parts(self) -> identity.Parts:
        return identity.Parts(
            tower=unwrapped(self.vision_tower),
            # Between the linears: activations.
            projector=[
                *(part for part in unwrapped(self.projector).children() if any(True for _ in part.parameters())),
                *self._beside_projector,
            ],
            embeddings=self.model.get_input_embeddings(),
            language={"layers": self.blocks, "norm": self.final_norm},
            words=self.chat.tokenizer.vocab_size,
        )

    def fingerprint(self, version: int = identity.DIGEST_VERSION) -> dict[str, Any]:
        """What identifies this base: architecture, sizes, digests of its weights. JSON-able.

        Computed once, and again only after something was written to, moved or put in place of those weights.
        """
        with self.lock:
            if version == 1:
                return self._described(self._first_digest())
            if self._known is None or self._known[0].changed():
                parts = self._parts
                watched = [parts.tower, self.projector, *self._beside_projector, parts.embeddings]
                watch = Watch([*watched, *parts.language.values()], self._holders)
                self._known = watch, self._described(identity.digests(parts, self._feature_layer))
            return dict(self._known[1])

    def _described(self, digests: dict[str, Any]) -> dict[str, Any]:
        """The fingerprint with these digests: the same for one checkpoint in every package."""
        vision: Any = unwrapped(self.vision_tower)
        return {
            "architecture": self.architecture,
            "vision_model": vision.config.model_type,
            "text_model": self._text_model,
            "vision_feature_layer": self._feature_layer,
            "image_size": vision.config.image_size,
            "patch_size": vision.config.patch_size,
            "vision_width": self.sizes.vision_width,
            "text_width": self.sizes.text_width,
            "num_layers": self.sizes.num_layers,
            "vocab_size": self.sizes.vocab_size,
            **digests,
        }

    def tower_digest(self) -> str:
        """Of the whole vision tower, the layers that the base does not use too (`identity.tower_digest`)."""
        with self.lock:
            return identity.tower_digest(unwrapped(self.vision_tower))

    def pixel_settings(self) -> dict[str, Any]:
        """The processor's settings that change pixels. JSON-able."""
        return identity.pixel_settings(self.processor.image_processor)

    def pixel_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The lowest and the highest of `pixel_values` that a picture can have, each (C,) in float32.

        What is added to pixels (a border, a perturbation) stays a picture as long as it is kept between them.
        """
        low, high = pixel_range(self.processor.image_processor)
        return low.to(self.device), high.to(self.device)

    def patch_counts(self, pixel_values: torch.Tensor) -> list[int]:
        """How many image tokens each of these images takes in a prompt; see `images_of_rows`."""
        return [self.sizes.num_patches] * len(pixel_values)

    def _tower_layer(self, layer: int) -> int:
        """The layer's number, counted from the embeddings' output (0), as in transformers' `hidden_states`."""
        tower: Any = unwrapped(self.vision_tower)
        count = int(tower.config.num_hidden_layers)
        kept = len(identity.used_layers(tower, 0)[0])  # a tower read alone ends with the layer that the base uses
        place = layer if type(layer) is not int or layer >= 0 else count + 1 + layer
        if not isinstance(self._feature_layer, int):
            raise ConfigError(
                f"no features of one layer: expected layer=None, as the base's projector takes {self._feature_layer} "
                f"together, got {layer!r}. Leave it out."
            )
        if type(layer) is not int or not 0 <= place <= kept:
            raise ConfigError(
                f"unknown layer of the vision tower: expected {-count - 1} to {kept - count - 1} or 0 (the embeddings' "
                f"output) to {kept}, got {layer!r}. Name one of these, or None for the base's own."
            )
        return place

    def project(self, vision: torch.Tensor) -> list[torch.Tensor]:
        """The base's projector alone, on features (N, P, Dv) at hand already: `ImageFeatures.projected`.

        With gradients, unless under `torch.no_grad()`.
        """
        # The model's dtype is that of its floating-point parameters; a quantised linear's weight would say uint8.
        return list(self.projector(vision.to(self.device, self.model.dtype)))

    @torch.no_grad()
    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings (B, T, D) of token ids (B, T); never with gradients."""
        # The module, never its weight: an offloaded embedding is brought in by a hook. Another hook, of activation
        # checkpointing, makes its output require gradients.
        return self.model.get_input_embeddings()(ids.to(self.device)).detach()

    def pixel_stub(self, images: int) -> torch.Tensor | None:
        """What to pass as `pixel_values` beside planned features; None without images."""
        return torch.zeros(images, 1, device=self.device) if images else None

    def prompt_ids(
        self,
        question: str,
        images: int = 1,
        history: Sequence[tuple[str, str]] = (),
        lengths: Sequence[int] | None = None,
    ) -> list[int]:
        """Ids of the base's prompt for a question about images, as its processor would give them.

        Args:
            question: words.
            images: how many.
            history: exchanges (user, assistant) before the question; the images stand in the first turn.
            lengths: image tokens of each; None = as many as every picture has, or, of a base with tiles, where that
                depends on the picture, one.
        """
        ids = self._encode(self.prompt(question, images, history))
        if ids.count(self.image_token_id) != images:
            raise PromptError(
                f"question not usable: expected {images} image placeholders in the prompt, got "
                f"{ids.count(self.image_token_id)}. Take the image token out of the question."
            )
        known = self.sizes.num_patches if self.sizes.tile is None else 1
        left = iter([known] * images if lengths is None else lengths)
        return [i for i in ids for _ in range(next(left) if i == self.image_token_id else 1)]

    def expanded(self, prompt: Sequence[int], features: Sequence[torch.Tensor]) -> list[int]:
        """Ids of `prompt_ids` with as many image tokens as their images have features (n_i, D)."""
        if self.sizes.tile is None:
            return [*prompt]
        left = iter(features)
        return [i for i in prompt for _ in range(len(next(left)) if i == self.image_token_id else 1)]


def _name(module: nn.Module) -> str:
    kind = type(module)
    return f"{kind.__name__} ({kind.__module__})"
