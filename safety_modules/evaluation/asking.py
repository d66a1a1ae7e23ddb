"""How systems ask a model: batches with pictures and without, left padding, greedy decoding, and what was counted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image

from safety_modules.backbones.generation import answer_length, end_ids
from safety_modules.defences.answer import Usage
from safety_modules.evaluation.cases import Case
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import Verdict
from safety_modules.records.record import Record

BATCH_SIZE = 64
MAX_NEW_TOKENS = 48
"""Of the pocket suite; other evaluations have settings of their own."""


class Question(NamedTuple):
    """The user's words, and the pictures they are about."""

    text: str
    images: Sequence[Image.Image] = ()


@dataclass(frozen=True)
class Said:
    """What a model said to a question.

    Attributes:
        text: without prompt and special tokens.
        prompt: ids of the prompt without padding, one for each image feature.
        new_tokens: tokens generated, the end of the sequence counted.
        verdict: the one that drove the answer, where something judged it.
        harmful: what a defence without verdicts took it for.
        usage: what answering took, where the call was guarded.
    """

    text: str
    prompt: list[int]
    new_tokens: int
    verdict: Verdict | None = None
    harmful: bool | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class Answers:
    """What a model said to some records, in their order.

    Attributes:
        texts: the answers, without prompt and special tokens.
        verdicts: the verdict that drove each answer; None where nothing was judged (base, text only).
    """

    texts: list[str]
    verdicts: list[Verdict | None]

    def __len__(self) -> int:
        return len(self.texts)


def questions_of(cases: Sequence[Case]) -> list[Question]:
    """The cases' own words and pictures. Raises DataError where a picture cannot be read."""
    return [Question(case.prompt, case.load_images()) for case in cases]


def questions_about(records: Sequence[Record]) -> list[Question]:
    """The records' own words and pictures. Raises DataError where a picture cannot be read."""
    return [Question(one.question, [] if one.image is None else [one.load_image()]) for one in records]


def encode(processor: Any, questions: Sequence[Question]) -> Any:
    """The questions in the base's own chat format, padded on the left, with their pictures."""
    prompts = []
    for question in questions:
        content = [*({"type": "image"} for _ in question.images), {"type": "text", "text": question.text}]
        turn = [{"role": "user", "content": content}]
        prompts.append(processor.apply_chat_template(turn, add_generation_prompt=True))
    images = [image for question in questions for image in question.images]
    return processor(text=prompts, images=images or None, padding=True, padding_side="left", return_tensors="pt")


@torch.no_grad()
def ask(
    model: Any,
    processor: Any,
    questions: Sequence[Question],
    max_new_tokens: int,
    generate: Callable[..., Any] | None = None,
) -> list[Said]:
    """Greedy answers, in order. Questions with and without a picture go in batches of their own: padding costs."""
    said: dict[int, Said] = {}
    for shown in (True, False):
        rows = [row for row, question in enumerate(questions) if bool(question.images) == shown]
        if not rows:
            continue
        inputs = encode(processor, [questions[row] for row in rows]).to(model.device)
        output = (generate or model.generate)(**inputs, **greedy(processor, max_new_tokens))
        new = output.sequences[:, inputs["input_ids"].shape[1] :]
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(inputs.input_ids, inputs.attention_mask, strict=True)]
        known = [getattr(output, name, None) or [None] * len(rows) for name in ("verdicts", "harmful", "usage")]
        answers = read_answers(model, processor, new)
        for row, (text, count), prompt, *found in zip(rows, answers, prompts, *known, strict=True):
            said[row] = Said(text, prompt, count, *found)
    return [said[row] for row in range(len(questions))]


def ask_records(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    *,
    safety: bool | None = None,
    policy: Policy | None = None,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    on_batch: Callable[[int], None] | None = None,
) -> Answers:
    """Put every record's question to the model, with its image where it has one.

    The same records in the same batches go to the base and to the guarded model: answers compare one by one.

    Args:
        model: a LLaVA, with safety attached or not.
        processor: its processor.
        records: what to ask.
        safety: whether to guard the answers; None = safety is not attached to this model.
        policy: for guarded answers; default: the attachment's.
        batch_size: records at a time; part of the result, because sums in other batches round otherwise.
        max_new_tokens: limit of an answer.
        on_batch: called with the number of records just answered.
    """
    options: dict[str, Any] = {} if safety is None else {"safety": safety}
    if safety and policy is not None:
        options["policy"] = policy
    texts: list[str] = [""] * len(records)
    verdicts: list[Verdict | None] = [None] * len(records)
    for batch in _batches(records, batch_size):
        questions = questions_about([records[place] for place in batch])
        said = ask(model, processor, questions, max_new_tokens, partial(model.generate, **options))
        for place, answer in zip(batch, said, strict=True):
            texts[place], verdicts[place] = answer.text, answer.verdict
        if on_batch is not None:
            on_batch(len(batch))
    return Answers(texts, verdicts)


def greedy(processor: Any, max_new_tokens: int) -> dict[str, Any]:
    """The decoding of every system."""
    return {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": max_new_tokens,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "return_dict_in_generate": True,
    }


def read_answers(model: Any, processor: Any, new: torch.Tensor) -> list[tuple[str, int]]:
    """Text and number of tokens of each row of new ids (B, L)."""
    ends, pad = end_ids(model, {}), processor.tokenizer.pad_token_id
    texts = processor.batch_decode(new, skip_special_tokens=True)
    return [(text.strip(), answer_length(ids, ends, pad)) for text, ids in zip(texts, new.tolist(), strict=True)]


def _batches(records: Sequence[Record], size: int) -> Iterator[list[int]]:
    """Indices in batches, records with and without a picture apart."""
    for has_image in (True, False):
        group = [i for i, record in enumerate(records) if (record.image is not None) == has_image]
        for start in range(0, len(group), size):
            yield group[start : start + size]
