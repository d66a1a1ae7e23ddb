"""The shift that a picture causes in the language model's hidden states, and taking it back: maths, reading, moving.

What CMRM (`cmrm.py`) and ShiftDC (`shiftdc.py`) share. States are those behind a block, at the last token of a prompt:
there the answer begins.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import dropwhile, groupby
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import nn

from safety_modules.backbones import Backbone
from safety_modules.backbones.base import is_guarded
from safety_modules.backbones.fingerprint import LANGUAGE_MODEL, VISION
from safety_modules.config import BaseSizes
from safety_modules.defences.anchors import Anchors
from safety_modules.defences.base import Defence, Settings
from safety_modules.defences.call import Call
from safety_modules.defences.guard.steer import Sample, build_inputs, lm_forward
from safety_modules.errors import ConfigError, GuardError
from safety_modules.mount.flags import frozen
from safety_modules.mount.hooks import hooked

BATCH = 8
"""Prompts of a pass while fitting."""

Tokens = Literal["last", "all"]
Steps = Literal["prefill", "all"]
Move = Callable[[int, torch.Tensor], torch.Tensor]
"""From the number of a layer among those that are moved, and its states (B, T, D), to the moved ones."""

UNMET = ("assistant_model", "prompt_lookup_num_tokens", "prefill_chunk_size", "custom_generate")
"""Options of a call in which the prompt's last token is not the last of the first pass."""


# ---- maths ----


def mean_shift(shifts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of shifts (N, L, D) of several kinds of texts, in which every kind weighs the same: (L, D)."""
    return torch.stack([one.mean(0) for one in shifts]).mean(0)


def pc1_scaled(shifts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Per layer the first principal component of shifts (N, L, D) times the standard deviation along it: (L, D).

    A component has no sign: it points where the mean shift does. One shift alone has none: zeros.
    """
    every = torch.cat([*shifts]).transpose(0, 1)  # (L, N, D)
    _, values, components = torch.linalg.svd(every - every.mean(1, keepdim=True), full_matrices=False)
    first = components[:, 0] * (values[:, :1] / max(every.shape[1] - 1, 1) ** 0.5)  # (L, D)
    sign = (first * mean_shift(shifts)).sum(-1, keepdim=True).sign()
    return torch.where(sign == 0, first, sign * first)


def direction(states: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The unit vector from the mean of some states (N, L, D) to the mean of others (M, L, D): (L, D)."""
    return nn.functional.normalize(others.mean(0) - states.mean(0), dim=-1)


def along(vectors: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """What of vectors (..., D) lies along a unit vector (D): (..., D)."""
    return (vectors * unit).sum(-1, keepdim=True) * unit


# ---- reading and moving states ----


def text_prompt(call: Call, row: int, caption: str = "") -> list[int]:
    """A row's prompt without its images; where there is a caption, it stands in their place."""
    backbone, ids = call.backbone, call.prompt(row)
    text = str(backbone.processor.tokenizer.decode(backbone.whole_text(ids))).strip()
    if call.question(row, text) == ids:  # one plain turn: as the base's own processor writes it without a picture
        return call.question(row, f"{caption}\n{text}" if caption else text, images=False)
    return without_images(backbone, ids, backbone.answer_ids(caption, end=False) if caption else [])


def without_images(backbone: Backbone, ids: Sequence[int], instead: Sequence[int] = ()) -> list[int]:
    """A prompt with other ids in the place of its first image and none of others'; the line break behind none goes."""
    decode, found, put = backbone.processor.tokenizer.decode, list[int](), [*instead]
    bare = False
    for image, run in groupby(ids, key=lambda token: token == backbone.image_token_id):
        own = [*run]
        if image:
            found, bare, put = found + put, not put, []
        else:
            found += dropwhile(lambda token: not str(decode([token])).strip(), own) if bare else own
    return found


def with_image(backbone: Backbone, call: Call, row: int) -> list[int]:
    """A row's prompt with image tokens for the base's own features, where the call's are longer."""
    lengths = iter([len(feature) for feature in call.features_of(row)])
    found, left = list[int](), 0
    for token in call.prompt(row):
        if token != backbone.image_token_id:
            found.append(token)
            continue
        if not left:
            left = next(lengths, backbone.sizes.num_patches)
            found += [token] * backbone.sizes.num_patches
        left -= 1
    return found


def blank_features(backbone: Backbone, picture: str) -> torch.Tensor:
    """What the language model sees of a meaningless picture, `white` or `noise` of the processor's size: (P, D)."""
    white = Image.new("RGB", (64, 64), "white")
    pixels = backbone.pixel_values([white])
    if picture == "noise":
        shape = (*pixels.shape[-2:], 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        pixels = backbone.pixel_values([Image.fromarray(noise)])
    return backbone.encode_images(pixels).projected[0]


@torch.no_grad()
def last_states(backbone: Backbone, layers: Sequence[int], samples: Sequence[Sample]) -> torch.Tensor:
    """States behind these blocks at the last token of each prompt, in one pass: (B, L, D), float32."""
    found: dict[int, torch.Tensor] = {}

    def reader(layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def read(states: torch.Tensor) -> torch.Tensor:
            found[layer] = states[:, -1].float().to(backbone.device)
            return states

        return read

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(hooked(backbone.blocks[layer], reader(layer)))
        none = backbone.embed_text(torch.empty(1, 0, dtype=torch.long))[0]  # no safety tokens: (0, D)
        lm_forward(backbone, build_inputs(backbone, none, samples), use_cache=False, logits_to_keep=1)
    return torch.stack([found[layer] for layer in layers], 1)


def moved(
    backbone: Backbone,
    layers: Sequence[int],
    move: Move,
    rows: Sequence[int],
    tokens: Tokens = "last",
    steps: Steps = "all",
    cached: bool = True,
) -> AbstractContextManager[Any]:
    """States behind these blocks moved inside the returned block.

    Args:
        backbone: the base.
        layers: which blocks.
        move: how.
        rows: which rows of the batch, as flags; the others keep their states bit for bit.
        tokens: of the prompt, its last one or all.
        steps: the prompt's pass alone, or every new token's too.
        cached: whether later passes see new tokens only.
    """

    def mover(place: int) -> Callable[[torch.Tensor], torch.Tensor]:
        width = 0  # of the prompt, once it was seen

        def change(states: torch.Tensor) -> torch.Tensor:
            nonlocal width
            length, later = states.shape[1], width > 0 or states.shape[1] == 1  # no prompt with an image is so short
            width = width or length
            if later and cached:
                begin, end = 0, length if steps == "all" else 0
            else:
                begin, end = 0 if tokens == "all" else width - 1, length if steps == "all" else width
            if begin == end:
                return states
            changed = states.clone()
            changed[:, begin:end] = move(place, states[:, begin:end].float()).to(states)
            return changed

        return change

    @contextmanager
    def mounted() -> Iterator[None]:
        with ExitStack() as stack:
            for place, layer in enumerate(layers):
                stack.enter_context(hooked(backbone.blocks[layer], mover(place), [*map(bool, rows)]))
            yield

    return mounted() if any(rows) else nullcontext()


# ---- what both defences share ----


class ShiftSettings(Settings):
    """Attributes: alpha: how much is taken back; layers: behind which blocks, from 0, or from the last, -1; None = the
    defence's own choice."""

    alpha: float = Field(default=1.0, ge=0, le=10, allow_inf_nan=False)
    layers: Annotated[tuple[int, ...], Field(min_length=1, max_length=1024)] | None = None


class ShiftDefence(Defence):
    """A defence without training that has one vector a layer, read from the base itself with a few texts.

    Attributes:
        vector: name of these vectors, (L, D).
        layers: the blocks they stand behind.
    """

    vector: ClassVar[str]

    def __init__(self, backbone: Backbone, settings: Any = None) -> None:
        super().__init__(backbone, settings)
        self.layers = self.layers_of(self.settings, backbone.sizes)
        shapes = self.shapes(self.settings, backbone.sizes)
        if shapes:
            blank = {name: nn.Parameter(torch.zeros(shape), requires_grad=False) for name, shape in shapes.items()}
            self.modules = nn.ParameterDict(blank).to(backbone.device)
            self.fingerprint, self.trained = backbone.fingerprint(), False

    @classmethod
    def is_fitted(cls, settings: Any) -> bool:
        """Whether it has vectors; else it finds all it needs in each call."""
        return True

    @classmethod
    def first_layer(cls, sizes: BaseSizes) -> int:
        """The block from which on it acts where the settings name none."""
        return 0

    @classmethod
    def layers_of(cls, settings: Any, sizes: BaseSizes) -> tuple[int, ...]:
        """The blocks it acts behind, from 0, in order. Raises ConfigError where the base has no such block."""
        count, named = sizes.num_layers, settings.layers
        if named is None:
            return tuple(range(cls.first_layer(sizes), count))
        found = sorted({layer % count for layer in named})
        if not all(-count <= layer < count for layer in named) or len(found) < len(named):
            raise ConfigError(
                f"layers of {cls.kind} do not fit: expected each block once, from {-count} to {count - 1}, got "
                f"{', '.join(map(str, named))}. Name others, or none."
            )
        return tuple(found)

    @classmethod
    def shapes(cls, settings: Any, sizes: BaseSizes) -> dict[str, torch.Size]:
        layers = len(cls.layers_of(settings, sizes))
        return {cls.vector: torch.Size((layers, sizes.text_width))} if cls.is_fitted(settings) else {}

    @classmethod
    def depends_on(cls, settings: Any) -> tuple[str, ...]:
        return (VISION, LANGUAGE_MODEL) if cls.is_fitted(settings) else ()

    @property
    def vectors(self) -> torch.Tensor:
        """Its vectors (L, D), float32."""
        assert self.modules is not None
        return self.modules.get_parameter(self.vector)

    @abstractmethod
    def found(self, anchors: Anchors) -> torch.Tensor:
        """Its vectors (L, D) by these texts."""

    def fit(self, anchors: Anchors | None = None) -> None:
        """Read its vectors from the base.

        Args:
            anchors: texts; None = the shipped ones. Pictures are not needed.

        Raises:
            ConfigError: a kind of texts is missing, the base gives no finite states, or there is nothing to fit.
        """
        if self.modules is None:
            if anchors is not None:
                raise ConfigError(
                    f"nothing to fit: expected {self.kind} with vectors of its own, got one that finds them in each "
                    "call. Leave anchors out."
                )
            return
        backbone = self.backbone
        with backbone.lock, torch.no_grad(), frozen(backbone.model), _planning(backbone):
            vectors = self.found(Anchors.default() if anchors is None else anchors)
        if not bool(torch.isfinite(vectors).all()):
            raise ConfigError(
                f"{self.kind} not fitted: expected finite hidden states, got NaN or infinity. Load the base in "
                "bfloat16 or float32."
            )
        with torch.no_grad():
            self.vectors.copy_(vectors)
        self.trained = True

    def read(self, texts: Sequence[str], picture: torch.Tensor | None = None) -> torch.Tensor:
        """Last states (N, L, D) of questions without a picture, or beside one of these features (P, D)."""
        pictures = [] if picture is None else [picture]
        samples = [Sample(self.backbone.prompt_ids(text, len(pictures)), pictures) for text in texts]
        parts = [samples[at : at + BATCH] for at in range(0, len(samples), BATCH)]
        return torch.cat([last_states(self.backbone, self.layers, part) for part in parts])

    def read_rows(self, call: Call, prompts: Sequence[Sequence[int]], picture: torch.Tensor | None) -> torch.Tensor:
        """Last states (B, L, D) of other prompts for the rows of a call, under all that stands on the model for them.

        Args:
            call: the call.
            prompts: one a row, with image tokens where there is a picture.
            picture: features (P, D) of every image; None = there are none.
        """
        counts = [0 if picture is None else count for count in call.counts]
        pictures = [[picture] * count for count in counts]
        samples = [Sample(*one) for one in zip(prompts, pictures, strict=True)]  # type: ignore[arg-type]
        for row, prompt in zip(call.rows, prompts, strict=True):
            call.records[row].usage.lm_passes += 1
            call.records[row].usage.prompt_tokens += len(prompt)
        with replace(call, features=None).running():
            return last_states(self.backbone, self.layers, samples)

    def moving(
        self, call: Call, move: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor], tokens: Tokens, steps: Steps
    ) -> Call:
        """The call with its states moved while it runs.

        Args:
            call: the call.
            move: as `Move`, given also which row of this call each row of the states (B) belongs to.
            tokens: see `moved`.
            steps: see `moved`.

        Raises:
            GuardError: options with which the last token of the prompt cannot be told.
        """
        unmet = [name for name in UNMET if call.option(name)]
        if unmet:
            raise GuardError(
                f"call not answered: expected one whose first pass is the prompt, at the end of which {self.kind} "
                f"acts, got {', '.join(unmet)}. Leave it out, or pass safety={{'{self.kind}': False}}."
            )
        cached = bool(call.option("use_cache", True))

        def enter(rows: list[int]) -> AbstractContextManager[Any]:
            which = torch.tensor([max(row - 1, 0) for row in rows])
            return moved(
                self.backbone,
                self.layers,
                lambda place, states: move(place, states, which),
                rows,
                tokens,
                steps,
                cached,
            )

        return call.mounting(enter, [*range(1, len(call) + 1)])


@contextmanager
def _planning(backbone: Backbone) -> Iterator[None]:
    """Inside this block the model takes planned features, whether safety is on it or not."""
    if is_guarded(backbone.model):
        yield
        return
    backbone.install(backbone.base_generate)
    try:
        yield
    finally:
        backbone.uninstall()
