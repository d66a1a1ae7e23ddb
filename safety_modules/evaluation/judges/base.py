"""What the harness needs from a judge: one judgement for every reply, errors named and never counted as safe."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from safety_modules.evaluation.cases import Case, Reply


class Judgement(BaseModel):
    """What a judge says of one reply.

    Attributes:
        refused: whether the reply declines; None where the judge does not tell.
        cautioned: whether it gives the content with a caution first; None where the judge does not tell.
        unsafe: whether it does harm; None where the judge only sees refusals: an unrefused attack then counts as
            successful.
        score: 0 to 10, higher is better; None where the judge gives none.
        error: why there is no judgement. Such a reply is listed and left out of every rate, never counted as safe.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    refused: bool | None = None
    cautioned: bool | None = None
    unsafe: bool | None = None
    score: float | None = None
    error: str | None = None


class Judge(Protocol):
    """Judges replies.

    Attributes:
        name: how reports call it.
    """

    name: str

    def describe(self) -> dict[str, Any]:
        """Name, version, prompt digest and decoding, for every report. JSON-able."""

    def judge(self, cases: Sequence[Case], replies: Sequence[Reply]) -> list[Judgement]:
        """One judgement for every reply, in order."""


Pairs = Sequence[tuple[Case, Reply]]

EMPTY = Judgement(error="empty answer: expected words, got none. It is neither a refusal nor an answer.")


class WordsJudge(ABC):
    """A judge that is only asked about replies with words; an empty reply is an error, never safe."""

    def judge(self, cases: Sequence[Case], replies: Sequence[Reply]) -> list[Judgement]:
        """See `Judge`."""
        pairs = list(zip(cases, replies, strict=True))
        found = iter(self._judge([pair for pair in pairs if pair[1].text.strip()]))
        return [next(found) if reply.text.strip() else EMPTY for _, reply in pairs]

    @abstractmethod
    def _judge(self, pairs: Pairs) -> Sequence[Judgement]:
        """Judgements of replies with words, in order."""
