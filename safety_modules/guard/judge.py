"""From vision features and prompts to verdicts: the safety head and the policy, no language model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from safety_modules.backbones import Backbone
from safety_modules.config import SafetyConfig
from safety_modules.errors import GuardError
from safety_modules.policy import Policy
from safety_modules.scores import judgements
from safety_modules.verdict import Verdict

if TYPE_CHECKING:
    from safety_modules.attachment import SafetyAttachment


def question_inputs(
    backbone: Backbone, config: SafetyConfig, prompts: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The text the head sees of each prompt: embeddings (B, T, D) and their mask (B, T).

    The question's own tokens (`concept`, `pooled_question`), or the first token of the prompt as published
    (`first_token`). Padding of the batch has no influence.

    Args:
        backbone: the base.
        config: the modules' design.
        prompts: ids without padding, image tokens expanded or not.
    """
    return embed_questions(backbone, [question_ids(backbone, config, prompt) for prompt in prompts])


def question_ids(backbone: Backbone, config: SafetyConfig, prompt: Sequence[int]) -> torch.Tensor:
    """The part of a prompt that the head sees, as ids (T,); arguments as in `question_inputs`."""
    ids = torch.tensor([list(prompt)])
    if config.query == "first_token":
        return ids[0, :1]
    return ids[0, backbone.question_mask(ids, torch.ones_like(ids))[0]]


def embed_questions(backbone: Backbone, texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, T, D) and mask (B, T) of ids of any lengths; an empty row has no true position."""
    width = max(1, *map(len, texts))
    padded = torch.stack([torch.cat([t, t.new_full((width - len(t),), backbone.pad_token_id)]) for t in texts])
    mask = torch.stack([torch.arange(width) < len(text) for text in texts])
    return backbone.embed_text(padded), mask.to(backbone.device)


def classify(
    attachment: "SafetyAttachment",
    source: Any,
    questions: str | Sequence[str] | None,
    policy: Policy,
    batch_size: int,
) -> list[Verdict]:
    """Judge pictures (a list) or pixel values (N, C, H, W), with one question for all, one each, or none.

    Raises:
        GuardError: not one question per image.
    """
    asked = [questions] * len(source) if isinstance(questions, str) else questions
    if asked is not None and len(asked) != len(source):
        raise GuardError(
            f"nothing judged: expected one question per image ({len(source)}), got {len(asked)}. "
            "Pass one question for all, or one each."
        )
    backbone = attachment.backbone
    prompts = None if asked is None else [backbone.prompt_ids(question) for question in asked]
    verdicts: list[Verdict] = []
    for start in range(0, len(source), batch_size):
        part = source[start : start + batch_size]
        pixels = part if isinstance(part, torch.Tensor) else backbone.pixel_values(part)
        places = range(start, start + len(part))
        with attachment.inference():
            vision = backbone.encode_images(pixels).vision
            here = None if prompts is None else prompts[start : start + batch_size]
            verdicts += judge(attachment, vision, here, policy, places)
    return verdicts


@torch.no_grad()
def judge(
    attachment: "SafetyAttachment",
    vision: torch.Tensor,
    prompts: Sequence[Sequence[int]] | None,
    policy: Policy,
    places: Sequence[int] | None = None,
) -> list[Verdict]:
    """One verdict per image.

    Args:
        attachment: whose modules, temperature and thresholds are used.
        vision: features of the frozen tower (N, P, Dv).
        prompts: per image the ids of the prompt it is asked about; None = images alone.
        policy: decides what fires.
        places: `image_index` of each verdict; default: its place in the batch.
    """
    if len(vision) == 0:
        return []
    question, mask = (
        (None, None) if prompts is None else question_inputs(attachment.backbone, attachment.config, prompts)
    )
    found = judgements(attachment.modules(vision, question, mask), attachment.temperature)
    maps = torch.from_numpy(found.attention).reshape(len(vision), -1, *attachment.backbone.sizes.grid)
    return [
        policy.decide(
            found.types[i],
            found.levels[i],
            attachment.config.taxonomy,
            attachment.thresholds,
            attention=maps[i],
            image_index=i if places is None else places[i],
            added_levels=found.added_levels[i],
        )
        for i in range(len(vision))
    ]
