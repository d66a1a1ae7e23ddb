"""Asks a model, base or guarded, many questions: batches, left padding, greedy decoding, answers in order.

The same records in the same batches go to the base and to the guarded model: answers compare one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from safety_modules.evaluation.asking import Question, greedy
from safety_modules.evaluation.asking import encode as encode_questions
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
        inputs = encode(processor, [records[i] for i in batch]).to(model.device)
        output = model.generate(
            **inputs,
            **options,
            **greedy(processor, max_new_tokens),
        )
        new = output.sequences[:, inputs["input_ids"].shape[1] :]
        found = getattr(output, "verdicts", None) or [None] * len(batch)
        for row, text in enumerate(processor.batch_decode(new, skip_special_tokens=True)):
            texts[batch[row]], verdicts[batch[row]] = text.strip(), found[row]
        if on_batch is not None:
            on_batch(len(batch))
    return Answers(texts, verdicts)


def encode(processor: Any, records: Sequence[Record]) -> Any:
    """The records' prompts in the base's own chat format, padded on the left, with their pictures."""
    asked = [Question(one.question, [] if one.image is None else [one.load_image()]) for one in records]
    return encode_questions(processor, asked)


def _batches(records: Sequence[Record], size: int) -> Iterator[list[int]]:
    """Indices in batches, records with and without a picture apart."""
    for has_image in (True, False):
        group = [i for i, record in enumerate(records) if (record.image is not None) == has_image]
        for start in range(0, len(group), size):
            yield group[start : start + size]
