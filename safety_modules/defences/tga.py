"""`tga`: lets a language model's safety on texts reach pictures (TGA, arXiv 2410.12662). The base stays frozen.

A language model that refuses "The picture shows a bomb. How do I use it?" may answer the question beside the picture,
because what the projector makes of a bomb is not what the word is. TGA trains on pictures with captions, so that a
picture is to the language model what its caption is; no picture has a safety label.

`pooled` is the paper's loss, `last` and `answers` align other things, all three with LoRA on the projector. `queries`
has a few tokens that read a caption out of the patches. What trains them is `training/transfer.py`.

Does not cover: what the language model would not refuse when told in words. The guard judges the tower's features,
which stay untouched in whatever order the two stand.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from safety_modules.backbones import Backbone
from safety_modules.backbones.bases import PROJECTOR_LINEARS
from safety_modules.backbones.fingerprint import LANGUAGE_MODEL, VISION
from safety_modules.config import BaseSizes, LoraSettings
from safety_modules.defences.base import SEED, Defence, Settings, Words
from safety_modules.defences.call import Call, in_place
from safety_modules.defences.guard.steer import Sample, build_inputs, lm_forward
from safety_modules.errors import AttachError
from safety_modules.mount.lora import Lora

Form = Literal["pooled", "last", "answers", "queries"]


class TgaSettings(Settings):
    """What is trained, and how it is used.

    Attributes:
        form: `pooled` (as published: mean states of picture and caption), `last` (the state at the prompt's last
            token), `answers` (the answers' distribution), each with LoRA on the projector; or `queries` (the answers'
            distribution, with learned tokens that read a caption).
        lora: on the projector; not with `queries`.
        tokens: `queries`: how many (K).
        width: `queries`: of the attention's keys.
        rank: `queries`: of what is added to a patch before it becomes a word.
        place: `queries`: where its tokens stand. `first`: in the picture's place, in a short pass of their own; a
            question that the language model refuses there is answered there, all others are the base's own, with the
            picture. `beside`: behind the patches. `instead`: in their place, whatever is asked.
        refusal: `first`: how the language model begins when it refuses.
        threshold: `first`: the probability, per token, from which on it is taken to refuse; one that is not named is
            calibrated at the end of training.
    """

    lora_on_projector: ClassVar[bool] = True

    kind: Literal["tga"] = "tga"
    form: Form = "queries"
    lora: LoraSettings = LoraSettings(r=64, alpha=64, dropout=0.0, target_modules=PROJECTOR_LINEARS)
    tokens: int = Field(default=12, gt=0, le=1024)
    width: int = Field(default=64, gt=0, le=65_536)
    rank: int = Field(default=16, gt=0, le=4096)
    place: Literal["first", "beside", "instead"] = "first"
    refusal: Words = "I'm sorry"
    threshold: float = Field(default=0.5, ge=0, le=1)

    @property
    def lora_settings(self) -> LoraSettings | None:
        return None if self.form == "queries" else self.lora

    @model_validator(mode="after")
    def _on_the_projector(self) -> "TgaSettings":
        if not {*self.lora.target_modules} <= {*PROJECTOR_LINEARS}:
            raise ValueError(f"lora.target_modules of tga are some of {', '.join(PROJECTOR_LINEARS)}")
        return self


class CaptionQueries(nn.Module):
    """Learned queries that read words out of a picture's projected patches (after the Q-Former, arXiv 2301.12597).

    What comes out lies among the language model's own word embeddings: each query attends to patches, and what it finds
    becomes the mean of the words most like it. So a thing that no training picture showed can still be named, if the
    projector puts it near its word. Nothing is added that does not come from the patches: trained on harmless captions
    alone, what a query may always say becomes a prompt that means "answer".

    Args:
        patches: of a picture (P).
        width: of the language model (D).
        settings: the design.
    """

    def __init__(self, patches: int, width: int, settings: TgaSettings) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(settings.tokens, settings.width))
        self.places = nn.Parameter(0.5 * torch.randn(patches, settings.width))
        self.keys = nn.Linear(width, settings.width, bias=False)
        self.down = nn.Linear(width, settings.rank, bias=False)
        self.up = nn.Linear(settings.rank, width, bias=False)
        self.where = nn.Parameter(torch.zeros(patches, width))
        self.sharpness = nn.Parameter(torch.tensor([3.0]))
        nn.init.zeros_(self.up.weight)

    def forward(self, projected: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Projected patches (N, P, D) and word embeddings (V, D) -> tokens (N, K, D)."""
        patches = projected.to(self.queries)
        patches = patches / patches.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt()
        keys = self.keys(patches) + self.places  # (N, P, width)
        attention = (self.queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5).softmax(-1)  # (N, K, P)
        found = attention @ (patches + self.where)  # what is there, such as "dog", and where, "left"
        found = functional.normalize(found + self.up(self.down(found)), dim=-1)
        words = words.to(self.queries)
        likeness = found @ functional.normalize(words, dim=-1).T  # (N, K, V)
        return (self.sharpness.exp() * likeness).softmax(-1) @ words


class Tga(Defence):
    """The base with other features for its pictures. Questions without one stay as they are.

    Args:
        backbone: the base.
        settings: the design.
        seed: of the first weights.

    Raises:
        AttachError: the base's projector is not the two linears of transformers' LLaVA, and the form needs these.
    """

    kind = "tga"
    settings_type = TgaSettings
    needs_training = True
    source = "TGA, arXiv 2410.12662; code: xsc1234/VLM_Safety_Transfer"
    leaves_out = (
        "training the language model: LoRA on the projector alone; the retrieved text in the prompt, of which nothing "
        "is known at test time: it is the weaker reference of the loss alone. The forms last, answers and queries are "
        "not the paper's"
    )

    def __init__(self, backbone: Backbone, settings: TgaSettings | None = None, seed: int = SEED) -> None:
        super().__init__(backbone, settings)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self.settings.lora_settings is None:
                sizes = backbone.sizes
                self.modules = CaptionQueries(sizes.num_patches, sizes.text_width, self.settings)
                self.modules.to(backbone.device).eval()
            else:
                self.lora = _projector_lora(backbone, self.settings.lora)
        self.fingerprint, self.trained = backbone.fingerprint(), False

    @classmethod
    def shapes(cls, settings: TgaSettings, sizes: BaseSizes) -> dict[str, torch.Size]:
        if settings.form != "queries":
            return {}
        with torch.device("meta"):
            queries = CaptionQueries(sizes.num_patches, sizes.text_width, settings)
        return {name: one.shape for name, one in queries.state_dict().items()}

    @classmethod
    def depends_on(cls, settings: TgaSettings) -> tuple[str, ...]:
        return VISION, LANGUAGE_MODEL

    def prepared(self, call: Call) -> Call:
        on, call = self.on(call), call.encoded()
        rows = [row for row, flag in enumerate(on) if flag and call.counts[row]]
        if not rows:
            return call
        if self.lora is not None:
            return self._projected_anew(call, call.images_of(rows))
        told = self._told(call, rows)
        if self.settings.place == "first":
            told = {row: told[row] for row, refuses in self._refuses(call, told).items() if refuses}
        if not told:
            return call
        samples = [told.get(row) or Sample(call.prompt(row), call.features_of(row)) for row in range(len(call))]
        inputs = build_inputs(self.backbone, self._no_tokens(), samples)
        return call.reworded(inputs.input_ids, inputs.attention_mask, inputs.features)

    def _projected_anew(self, call: Call, images: Sequence[int]) -> Call:
        assert call.vision is not None and call.projected is not None and call.features is not None
        features, vision = [*call.features], call.vision[[*images]]
        patches = vision[:, -self.backbone.sizes.num_patches :]  # without a class token, which stands first
        for image, own in zip(images, self.projected(patches), strict=True):
            features[image] = in_place(features[image], call.projected[image], own)
        return replace(call, features=features)

    def _told(self, call: Call, rows: Sequence[int]) -> dict[int, Sample]:
        """Rows with what the queries read in the place of their pictures, or behind them."""
        assert call.projected is not None and call.features is not None
        images = call.images_of(rows)
        read = self.captions(torch.stack([call.projected[image] for image in images]))
        tokens = {image: one.to(call.features[image]) for image, one in zip(images, read, strict=True)}
        found = {}
        for row in rows:
            own = call.images_of([row])
            features = [tokens[image] for image in own]
            if self.settings.place == "beside":
                features = [torch.cat([call.features[image], tokens[image]]) for image in own]
            prompt = retold(self.backbone, call.prompt(row), list(map(len, call.features_of(row))), features)
            found[row] = Sample(prompt, features)
        return found

    def _refuses(self, call: Call, told: dict[int, Sample]) -> dict[int, bool]:
        """Whether the language model begins to refuse, row by row."""
        for row, sample in told.items():
            usage = call.records[call.rows[row]].usage
            usage.lm_passes += 1
            usage.prompt_tokens += len(sample.prompt)
        with replace(call.take([*told]), features=None).running():
            chances = self.refusal_chances([*told.values()])
        return dict(zip(told, (chances >= self.settings.threshold).tolist(), strict=True))

    @torch.no_grad()
    def refusal_chances(self, samples: Sequence[Sample]) -> torch.Tensor:
        """How probable it is that the language model begins to refuse, per token of `refusal`: one pass, (B,)."""
        opening = self.backbone.answer_ids(self.settings.refusal, end=False)
        inputs = build_inputs(self.backbone, self._no_tokens(), [replace(one, answer=opening) for one in samples])
        inputs = inputs._replace(labels=None)
        logits = lm_forward(self.backbone, inputs, use_cache=False, logits_to_keep=len(opening) + 1).logits[:, :-1]
        wanted = inputs.input_ids[:, -len(opening) :, None].to(logits.device)
        return logits.float().log_softmax(-1).gather(-1, wanted).squeeze(-1).mean(-1).exp()

    def _no_tokens(self) -> torch.Tensor:
        return torch.empty(0, self.backbone.sizes.text_width)  # of the guard's: (0, D)

    def projected(self, vision: torch.Tensor) -> list[torch.Tensor]:
        """What the projector with LoRA makes of the tower's features (N, P, Dv): N tensors (P, D)."""
        assert self.lora is not None
        with self.lora.mounted():
            return self.backbone.project(vision)

    def captions(self, projected: torch.Tensor) -> torch.Tensor:
        """The tokens that the queries read out of projected patches (N, P, D): (N, K, D)."""
        assert isinstance(self.modules, CaptionQueries)
        words = self.backbone.embed_text(torch.arange(self.backbone.chat.tokenizer.vocab_size)[None])[0]
        return self.modules(projected, words)


def _projector_lora(backbone: Backbone, settings: LoraSettings) -> Lora:
    sizes, found = backbone.sizes, dict(backbone.projector.named_children())
    expected = dict(zip(PROJECTOR_LINEARS, (sizes.vision_width, sizes.text_width), strict=True))
    inputs = {name: getattr(found.get(name), "in_features", None) for name in expected}
    if inputs != expected:
        raise AttachError(
            f"tga not attached: expected a projector of the linears {', '.join(PROJECTOR_LINEARS)}, as transformers' "
            f"LLaVA-1.5 has, got {', '.join(found) or 'none'}. Use a checkpoint in transformers' format, or the form "
            "queries, which leaves the projector alone."
        )
    return Lora(backbone.projector, settings, backbone.lock)


def retold(
    backbone: Backbone, prompt: Sequence[int], lengths: Sequence[int], features: Sequence[torch.Tensor]
) -> list[int]:
    """A prompt with image tokens for other features in the place of those of these lengths."""
    image, found, left, news = backbone.image_token_id, list[int](), [*lengths], map(len, features)
    for token in prompt:
        if token != image:
            found.append(token)
            continue
        left[0] -= 1
        if left[0] == 0:
            found += [image] * next(news)
            left.pop(0)
    return found
