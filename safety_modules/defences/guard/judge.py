"""From vision features and prompts to verdicts: the safety head and the policy, no language model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch

from safety_modules.backbones import Backbone, ImageFeatures
from safety_modules.backbones.chat import Reading
from safety_modules.backbones.tiles import lengths
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules, head_class
from safety_modules.errors import DataError, GuardError
from safety_modules.pictures import Asked, asked_pictures, open_frames
from safety_modules.policy.decisions import Decisions
from safety_modules.policy.policy import Policy
from safety_modules.policy.scores import HeadOutput, judgements, most_severe
from safety_modules.policy.verdict import Fit, Verdict, of_frames

MAX_READINGS = 128
"""How many images with a text beside them the head judges at once, which bounds its memory in long conversations."""
MAX_TOKENS = 32_768
"""Of all these texts, padding counted: on a 7B half a gigabyte of embeddings."""


def look(backbone: Backbone, modules: SafetyModules, pixel_values: torch.Tensor) -> ImageFeatures:
    """What these modules are to see: the patches of one run of the tower, for words with the class token before them;
    and of another run for each view, where they judge by views.
    """
    images = _encode(backbone, modules)(pixel_values)
    return images._replace(vision=with_views(backbone, modules, pixel_values, images.vision))


def with_views(
    backbone: Backbone, modules: SafetyModules, pixel_values: torch.Tensor, vision: torch.Tensor
) -> torch.Tensor:
    """Features (N, P, Dv), and before them those of k views (N, (k + 1) P, Dv), where these modules judge by views."""
    if modules.voting is None:
        return vision
    voting, limits, encode = modules.voting, backbone.pixel_range(), _encode(backbone, modules)
    seen, at_once = [], max(1, len(vision) // voting.settings.count)  # no more views at a time than pictures
    for some in pixel_values.split(at_once):
        views = encode(voting.of(some, *limits).to(some.dtype)).vision  # (n k, P, Dv)
        seen.append(views.unflatten(0, (len(some), -1)).flatten(1, 2))
    return torch.cat([torch.cat(seen), vision], 1)


def _encode(backbone: Backbone, modules: SafetyModules) -> Callable[[torch.Tensor], ImageFeatures]:
    return backbone.encode_with_class if modules.config.words else backbone.encode_images


def question_ids(backbone: Backbone, config: SafetyConfig, prompt: Sequence[int]) -> torch.Tensor:
    """A whole prompt as the head sees it, ids (T,): what it is trained on, and the first of `question_readings`.

    All that is said, or the first token of the prompt as published (`Head.reads`).

    Args:
        backbone: the base.
        config: the modules' design.
        prompt: ids without padding, image tokens expanded or not.
    """
    return torch.tensor(
        list(prompt[:1]) if head_class(config).reads == "first token" else backbone.whole_text(prompt)
    ).long()


def question_readings(backbone: Backbone, config: SafetyConfig, prompt: Sequence[int] | None) -> list[Reading]:
    """All that a prompt is judged by; the riskiest counts. No prompt, or one without words: one empty reading."""
    head = head_class(config)
    if prompt is None or head.reads == "nothing":
        return [Reading([])]
    found = backbone.turns(prompt) if head.reads == "turns" else backbone.parts(prompt)
    if head.reads == "first token" or (head.needs_question and not found[0].ids):
        return [Reading(question_ids(backbone, config, prompt).tolist(), found[0].turn)]
    return found


def embed_questions(backbone: Backbone, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, T, D) and mask (B, T) of ids of any lengths; an empty row has no true position."""
    width = max(1, *map(len, texts))
    padded = torch.tensor([[*text, *[backbone.pad_token_id] * (width - len(text))] for text in texts])
    mask = torch.stack([torch.arange(width) < len(text) for text in texts])
    return backbone.embed_text(padded), mask.to(backbone.device)


class Judging(Protocol):
    """What judges: a head on a base, and how its logits are read. A guard is one."""

    modules: SafetyModules

    @property
    def backbone(self) -> Backbone: ...

    @property
    def config(self) -> SafetyConfig: ...

    @property
    def thresholds(self) -> Mapping[str, float]: ...

    @property
    def temperature(self) -> float: ...


class _Look(NamedTuple):
    """A frame to judge: of which picture, pixel values (1, C, H, W), its number, how many there are, what is asked."""

    picture: int
    pixels: Any
    number: int
    total: int
    question: str | None


def classify(
    backbone: Backbone,
    looking: Callable[[torch.Tensor], ImageFeatures],
    judging: Callable[..., list[Verdict]],
    alone: Callable[[], AbstractContextManager[None]],
    images: Any,
    pixel_values: Any,
    questions: Any,
    policy: Policy,
    batch_size: int,
) -> list[Verdict]:
    """Judge pictures, or pixel values (N, C, H, W); see `SafetyAttachment.classify`.

    Args:
        backbone: the base.
        looking, judging: `look` and `judge`, of the guard that is the active one at the time.
        alone: alone on the model.
        images, pixel_values, questions, policy, batch_size: as there.
    """
    if pixel_values is not None:
        if not backbone.are_images(pixel_values):
            got = getattr(pixel_values, "shape", type(pixel_values).__name__)
            if backbone.sizes.tile is not None:
                raise GuardError(
                    f"nothing judged: expected pictures, got pixel_values ({got}), which do not say how large the "
                    "pictures are whose tiles they hold. Pass pictures as images=."
                )
            raise GuardError(
                f"nothing judged: expected pixel_values as a tensor (N, C, H, W), got {got}. "
                'Pass processor(..., return_tensors="pt")["pixel_values"], or pictures as images=.'
            )
        images = list(pixel_values)
    if type(batch_size) is not int or batch_size < 1:
        raise GuardError(f"nothing judged: expected a batch_size of at least 1, got {batch_size!r}. Pass one.")
    found: list[Verdict] = []
    for batch in asked_pictures(images, questions, batch_size):
        looks = [
            frame for place, one in enumerate(batch, len(found)) for frame in _looks(backbone, one, place, pixel_values)
        ]
        frames: list[Verdict] = []
        for start in range(0, len(looks), batch_size):
            part = looks[start : start + batch_size]
            prompts = [None if one.question is None else backbone.prompt_ids(one.question) for one in part]
            with alone():
                vision = looking(backbone.joined([one.pixels for one in part])).vision
                frames += judging(vision, prompts, policy, [one.picture for one in part])
        found += _most_severe(looks, frames)
    return found


def _looks(backbone: Backbone, asked: Asked, place: int, prepared: Any) -> Iterator[_Look]:
    """The frames of a picture; of one that is prepared already, its pixel values."""
    if prepared is not None:
        yield _Look(place, prepared[place : place + 1], 0, 1, asked.question)
        return
    try:
        for frame in open_frames(asked.picture):
            yield _Look(place, backbone.pixel_values([frame.picture]), frame.number, frame.total, asked.question)
    except DataError as error:
        raise DataError(f"images[{place}]: {error}") from error


def _most_severe(looks: Sequence[_Look], frames: Sequence[Verdict]) -> Iterator[Verdict]:
    """Of every picture the verdict of the frame that is the most severe, as of several readings."""
    for _, group in groupby(zip(looks, frames, strict=True), key=lambda pair: pair[0].picture):
        seen, verdicts = zip(*group, strict=True)
        yield of_frames(verdicts, [one.number for one in seen], seen[0].total)


@torch.no_grad()
def judge(
    guard: Judging,
    vision: torch.Tensor,
    prompts: Sequence[Sequence[int] | None] | None,
    policy: Policy,
    places: Sequence[int] | None = None,
) -> list[Verdict]:
    """One verdict per image: the riskiest of those on its prompt's readings.

    Args:
        guard: whose modules, temperature and thresholds are used.
        vision: what the modules see (N, P, Dv); see `look`.
        prompts: per image the ids of the prompt it is asked about, or None; None = images alone.
        policy: decides what fires.
        places: `image_index` of each verdict; default: its place in the batch.
    """
    if len(vision) == 0:
        return []
    readings = [question_readings(guard.backbone, guard.config, prompt) for prompt in prompts or [None] * len(vision)]
    output = head_output(guard, partial(rows_of, vision), readings, MAX_READINGS)
    decisions, chosen = decide(guard, output, policy, [*map(len, readings)])
    decisions.check()
    maps = torch.from_numpy(decisions.found.attention).unflatten(-1, guard.backbone.sizes.grid)
    severity = iter(decisions.severity.tolist())  # of a picture's readings the most severe one's, of equals the first's
    turns = [min((-next(severity), one.turn) for one in texts)[1] or None for texts in readings]
    of = zip(chosen, range(len(vision)) if places is None else places, turns, strict=True)
    found = [replace(decisions.verdict(row, maps[row], place), turn=turn) for row, place, turn in of]
    return found if guard.backbone.sizes.tile is None else _of_tiles(found, vision, guard.backbone.sizes.tile)


def _of_tiles(verdicts: Sequence[Verdict], vision: torch.Tensor, tile: tuple[int, int]) -> list[Verdict]:
    """The same, with how the map of each picture lies on it, where pictures are cut into tiles of so many patches."""
    # One tile alone, with the newline behind it, is a picture padded to a square.
    alone = tile[0] * tile[1] + 1
    fits: list[Fit] = ["pad" if length == alone else "stretch" for length in lengths(vision)]
    return [replace(verdict, fit=fit) for verdict, fit in zip(verdicts, fits, strict=True)]


def head_output(
    judging: Judging,
    vision: Callable[[list[int]], torch.Tensor | None],
    readings: Sequence[Sequence[Reading]],
    at_once: int | None = None,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    attention: bool = True,
) -> HeadOutput:
    """What the head says of every reading of every image, in order; on its device, where it may yet be computed.

    Args:
        judging: whose modules.
        vision: features (n, P, Dv) of these of the images, which come once for each of their readings.
        readings: of each image's question; an empty one is none. See `question_readings`.
        at_once: readings in one run of the head, fewer if they are long (`MAX_TOKENS`) or for views; None = all.
        alone: entered for each run.
        attention: False = none is kept, which would fill memory.
    """
    images = [image for image, texts in enumerate(readings) for _ in texts]
    texts = [reading.ids for one in readings for reading in one]
    found, looks = [], judging.modules.looks
    few = len(texts) * looks <= (at_once or 0) and len(texts) * max(map(len, texts)) * looks <= MAX_TOKENS
    for here in [slice(None)] if few or at_once is None else _portions([*map(len, texts)], at_once, looks):
        with alone():
            asked = embed_questions(judging.backbone, texts[here]) if any(map(len, texts[here])) else (None, None)
            output = judging.modules(vision(images[here]), *asked)
        found.append(output if attention else output._replace(attention=output.attention[:, :0, :0].clone()))
    if len(found) == 1:  # as a rule
        return found[0]
    return HeadOutput._make(None if part[0] is None else torch.cat(part) for part in zip(*found, strict=True))


def _portions(lengths: Sequence[int], at_once: int, looks: int) -> Iterator[slice]:
    """Texts of these lengths, in order, in batches; each is judged beside so many looks at its picture."""
    at_once, tokens = max(1, at_once // looks), MAX_TOKENS // looks
    start = width = 0
    for end, length in enumerate(lengths):
        wider = max(width, length)
        if end > start and (end - start == at_once or wider * (end + 1 - start) > tokens):
            yield slice(start, end)
            start, wider = end, length
        width = wider
    yield slice(start, len(lengths))


def rows_of(vision: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """These rows; the very tensor where they are all in order."""
    return vision if rows == list(range(len(vision))) else vision[torch.tensor(rows, device=vision.device)]


def decide(judging: Judging, output: HeadOutput, policy: Policy, counts: Sequence[int]) -> tuple[Decisions, list[int]]:
    """The policy on a `head_output`, of so many readings for each image; and of each the place of what decides."""
    found = judgements(output, judging.temperature)
    decisions = policy.decisions(found, judging.config.taxonomy, judging.thresholds)
    return decisions, most_severe(decisions.severity, decisions.risk, counts)
