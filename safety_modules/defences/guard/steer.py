"""What a steered sequence looks like: safety tokens before an image, a hint before the answer.

The one place that builds such sequences: inference and training stage II both come here, so the language
model is trained on exactly what it later sees (arXiv 2405.13581: the image slot holds [s2 ; h_i]).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from safety_modules.backbones import Backbone
from safety_modules.errors import PromptError

IGNORED = -100
"""Label of a position that the language-model loss leaves out."""


@dataclass(frozen=True)
class Steer:
    """What is added to one sample; by default nothing, which is the base's own sequence.

    Attributes:
        tokens: per image, whether the safety tokens (s2) stand before it; empty = before none.
        hint: sentence between the question and the answer, or None.
    """

    tokens: tuple[bool, ...] = ()
    hint: str | None = None


@dataclass(frozen=True)
class Sample:
    """One prompt, ready for the language model.

    Attributes:
        prompt: ids without padding, image tokens expanded.
        features: projected features (P, D) of its images, in order.
        steer: what is added.
        answer: training only: the wanted answer, as text or ids (end-of-sequence id included).
    """

    prompt: Sequence[int]
    features: Sequence[torch.Tensor] = ()
    steer: Steer = field(default_factory=Steer)
    answer: str | Sequence[int] | None = None


class LmInputs(NamedTuple):
    """A left-padded batch for the language model.

    Attributes:
        input_ids: (B, T).
        attention_mask: (B, T).
        position_ids: (B, T), counted from each row's first real token.
        labels: (B, T), IGNORED everywhere but on the answers; None without answers.
        features: what the image tokens stand for: one (n_i, D) tensor per image of the batch.
        images_per_row: B counts.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor | None
    features: list[torch.Tensor]
    images_per_row: list[int]


def build_inputs(backbone: Backbone, lm_tokens: torch.Tensor, samples: Sequence[Sample]) -> LmInputs:
    """Steer samples and batch them.

    Args:
        backbone: the base.
        lm_tokens: s2, (K, D); gradients flow into it through the features.
        samples: prompts with their images; either all or none with an answer.

    Raises:
        PromptError: a prompt's image tokens do not match its images, or there is no place for its hint.
    """
    rows, labels, features = [], [], []
    for sample in samples:
        ids, added = _steer(backbone, lm_tokens, sample)
        answer = sample.answer
        answer_ids = backbone.answer_ids(answer) if isinstance(answer, str) else list(answer or [])
        rows.append(torch.tensor([*ids, *answer_ids]))
        labels.append(torch.tensor([IGNORED] * len(ids) + answer_ids))
        features += added
    mask = _left_pad([torch.ones_like(row) for row in rows], 0).to(backbone.device)
    with_answers = any(sample.answer is not None for sample in samples)
    return LmInputs(
        input_ids=_left_pad(rows, backbone.pad_token_id).to(backbone.device),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        labels=_left_pad(labels, IGNORED).to(backbone.device) if with_answers else None,
        features=features,
        images_per_row=[len(sample.features) for sample in samples],
    )


def lm_forward(backbone: Backbone, inputs: LmInputs, **kwargs: Any) -> Any:
    """One forward pass of the base on a built batch: logits, and the loss where there are labels.

    LoRA takes part if the caller mounted it; keep it mounted until after `backward()` where activations are
    checkpointed, because the layers then run again.
    """
    with backbone.planned(inputs.features, inputs.images_per_row):
        return backbone.model(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            position_ids=inputs.position_ids,
            labels=inputs.labels,
            pixel_values=backbone.pixel_stub(len(inputs.features)),
            **kwargs,
        )


def _steer(backbone: Backbone, lm_tokens: torch.Tensor, sample: Sample) -> tuple[list[int], list[torch.Tensor]]:
    ids, steer = list(sample.prompt), sample.steer
    if steer.hint is not None:
        ids = backbone.insert_hint(ids, steer.hint)
    tokens = steer.tokens or (False,) * len(sample.features)
    places = [at for at, token in enumerate(ids) if token == backbone.image_token_id]
    expected = sum(len(feature) for feature in sample.features)
    if len(places) != expected or len(tokens) != len(sample.features):
        raise PromptError(
            f"images and prompt do not match: expected {expected} image tokens for {len(sample.features)} "
            f"images, got {len(places)} (and steering for {len(tokens)} images). Build both with the model's "
            "own processor."
        )
    features, begin, starts = [], 0, []
    for feature, with_tokens in zip(sample.features, tokens, strict=True):
        if with_tokens:
            starts.append(places[begin])
            feature = torch.cat([lm_tokens.to(feature.device, feature.dtype), feature])  # [s2 ; h_i]
        features.append(feature)
        begin += len(sample.features[len(features) - 1])
    for start in reversed(starts):  # from the back, so that earlier places stay right
        ids[start:start] = [backbone.image_token_id] * len(lm_tokens)
    return ids, features


def _left_pad(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.stack([torch.cat([row.new_full((width - len(row),), value), row]) for row in rows])
