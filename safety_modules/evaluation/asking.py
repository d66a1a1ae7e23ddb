"""How systems ask a model: batches with pictures and without, left padding, greedy decoding, and what was counted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image

from safety_modules.backbones.generation import answer_length, end_ids
from safety_modules.defences.answer import Usage
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import Verdict
from safety_modules.records.record import Record

BATCH_SIZE = 64
MAX_NEW_TOKENS = 48
"""Of the pocket suite; other evaluations have settings of their own."""


class Question(NamedTuple):
    """The user's words, the pictures they are about, and the exchanges before (`Record.history`)."""

    text: str
    images: Sequence[Image.Image] = ()
    history: Sequence[tuple[str, str]] = ()


class Said(NamedTuple):
    """What a model said to a question.

    Attributes:
        text: without prompt and special tokens.
        usage: what answering took; of the bare base as well.
        verdict: the one that drove the answer, where something judged it.
        harmful: what a defence without verdicts took it for.
    """

    text: str
    usage: Usage
    verdict: Verdict | None = None
    harmful: bool | None = None


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


def questions_about(records: Sequence[Record]) -> list[Question]:
    """The records' own words and pictures. Raises DataError where a picture cannot be read."""
    return [Question(one.question, [] if one.image is None else [one.load_image()], one.history) for one in records]


def encode(processor: Any, questions: Sequence[Question]) -> Any:
    """The questions in the base's own chat format, padded on the left, with their pictures."""
    prompts = []
    for question in questions:
        said = [*(words for exchange in question.history for words in exchange), question.text]
        turns = [
            {"role": ("user", "assistant")[place % 2], "content": [{"type": "text", "text": words}]}
            for place, words in enumerate(said)
        ]
        turns[0]["content"] = [*({"type": "image"} for _ in question.images), {"type": "text", "text": said[0]}]
        prompts.append(processor.apply_chat_template(turns, add_generation_prompt=True))
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
    ends, pad = end_ids(model, {}), processor.tokenizer.pad_token_id
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": max_new_tokens, "pad_token_id": pad}
    for shown in (True, False):
        rows = [row for row, question in enumerate(questions) if bool(question.images) == shown]
        if not rows:
            continue
        inputs = encode(processor, [questions[row] for row in rows]).to(model.device)
        output = (generate or model.generate)(**inputs, **options, return_dict_in_generate=True)
        new = output.sequences[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(new, skip_special_tokens=True)
        known = [getattr(output, name, None) or [None] * len(rows) for name in ("usage", "verdicts", "harmful")]
        for place, (row, text, usage, *found) in enumerate(zip(rows, texts, *known, strict=True)):
            if usage is None:
                count = answer_length(new[place].tolist(), ends, pad)
                usage = Usage(int(inputs.attention_mask[place].sum()), count, len(questions[row].images), 1)
            said[row] = Said(text.strip(), usage, *found)
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


def decoding(max_new_tokens: int, batch_size: int) -> str:
    """How reports call what `ask` does."""
    return f"greedy, at most {max_new_tokens} new tokens, batches of {batch_size}"


def _batches(records: Sequence[Record], size: int) -> Iterator[list[int]]:
    """Indices in batches, records with and without a picture apart."""
    for has_image in (True, False):
        group = [i for i, record in enumerate(records) if (record.image is not None) == has_image]
        for start in range(0, len(group), size):
            yield group[start : start + size]
