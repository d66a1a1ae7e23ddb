"""Puts records to a model, base or guarded: batches, greedy decoding, answers in order.

The same records in the same batches go to the base and to the guarded model: answers compare one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from safety_modules.evaluation.asking import Question
from safety_modules.evaluation.asking import ask as greedy_answers
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import Verdict
from safety_modules.records.record import Record

BATCH_SIZE = 64
MAX_NEW_TOKENS = 48


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


def ask(
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
        said = greedy_answers(model, processor, questions, max_new_tokens, partial(model.generate, **options))
        for place, answer in zip(batch, said, strict=True):
            texts[place], verdicts[place] = answer.text, answer.verdict
        if on_batch is not None:
            on_batch(len(batch))
    return Answers(texts, verdicts)


def questions_about(records: Sequence[Record]) -> list[Question]:
    """The records' own words and pictures. Raises DataError where a picture cannot be read."""
    return [Question(one.question, [] if one.image is None else [one.load_image()]) for one in records]


def _batches(records: Sequence[Record], size: int) -> Iterator[list[int]]:
    """Indices in batches, records with and without a picture apart."""
    for has_image in (True, False):
        group = [i for i, record in enumerate(records) if (record.image is not None) == has_image]
        for start in range(0, len(group), size):
            yield group[start : start + size]
