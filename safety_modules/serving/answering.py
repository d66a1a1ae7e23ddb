"""One request's answer while it is being made: from token ids to words, up to its end, whichever end comes first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers.generation.streamers import BaseStreamer

from safety_modules.backbones.generation import RowStreamer
from safety_modules.defences.answer import Row
from safety_modules.policy.verdict import Verdict

Finish = Literal["stop", "length", "content_filter"]
_HALF = "\ufffd"
"""What a decoder shows for the first bytes of a character."""


@dataclass(frozen=True)
class Judged:
    """What became known before the first word.

    Attributes:
        verdict: the one that drove the answer; None without a picture, or where nothing was judged.
        verdicts: on every picture, in order.
        refusal: whether the answer is the policy's fixed one.
    """

    verdict: Verdict | None = None
    verdicts: Sequence[Verdict] = ()
    refusal: bool = False


@dataclass(frozen=True)
class Answered:
    """A whole answer."""

    text: str
    finish: Finish
    tokens: int
    judged: Judged


@dataclass
class Answering:
    """One row's answer. Lives in the thread of the model.

    Attributes:
        decode: from ids to words.
        ends: ids that end an answer.
        limit: tokens.
        stops: words that end it, and are left out.
        began: called once, when the verdicts are known and before the first word.
        said: called with every further piece of the answer; None = nobody listens before the end.
        finished: called once with the whole answer.
    """

    decode: Callable[[list[int]], str]
    ends: frozenset[int]
    limit: int
    stops: Sequence[str]
    began: Callable[[Judged], None]
    finished: Callable[[Answered], None]
    said: Callable[[str], None] | None = None
    judged: Judged | None = None
    answered: Answered | None = None
    _ids: list[int] = field(default_factory=list)
    _told: int = 0

    def begin(self, record: Row | None) -> None:
        """Note what is known of the row."""
        if self.judged is None:
            found = record or Row()
            self.judged = Judged(found.verdict, found.image_verdicts, found.refusal is not None)
            self.began(self.judged)

    def put(self, token: int) -> None:
        """One more id; those behind the end are padding."""
        if self.answered is not None:
            return
        self._ids.append(token)
        if token in self.ends:
            self.end("stop")
        elif len(self._ids) == self.limit:
            self.end("length")
        elif self.said is not None or self.stops:
            text, stopped = visible(self.decode(self._ids), self.stops)
            if stopped:
                self.end("stop")
            else:
                self._tell(text)

    def end(self, finish: Finish = "length") -> None:
        """The answer is whole."""
        if self.answered is not None:
            return
        self.begin(None)
        assert self.judged is not None
        text, stopped = visible(self.decode(self._ids), self.stops, whole=True)
        self._tell(text)
        finish = "content_filter" if self.judged.refusal else "stop" if stopped else finish
        self.answered = Answered(text, finish, len(self._ids), self.judged)
        self.finished(self.answered)

    def _tell(self, text: str) -> None:
        if self.said is not None and len(text) > self._told:
            self.said(text[self._told :])
            self._told = len(text)


def visible(text: str, stops: Sequence[str] = (), whole: bool = False) -> tuple[str, bool]:
    """What may be shown of a text that is being written, and whether a stop ended it.

    Held back are white space at the end, half a character, and what may become a stop.

    Args:
        text: all that is written by now.
        stops: words that end it.
        whole: nothing will follow.
    """
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    if places:
        return text[: min(places)].strip(), True
    if not whole:
        text = text.rstrip(_HALF)
        held = max(
            (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])),
            default=0,
        )
        text = text[: len(text) - held]
    return text.strip(), False


class Rows(RowStreamer):
    """Streams a batch to the answers of its rows, each row to its own.

    Args:
        answers: one per row.
    """

    def __init__(self, answers: Sequence[Answering]) -> None:
        self._answers, self._prompts = answers, True

    def of_rows(self, rows: Sequence[int], records: Sequence[Any]) -> BaseStreamer:
        for row in rows:
            self._answers[row].begin(records[row])
        return Rows([self._answers[row] for row in rows])

    def put(self, value: torch.Tensor) -> None:
        """The prompts (B, T), then a token a row (B,), again and again."""
        if self._prompts:
            self._prompts = False
            return
        for answer, token in zip(self._answers, value.tolist(), strict=True):
            answer.put(token)

    def end(self) -> None:
        """What has no end yet has reached the call's limit."""
        for answer in self._answers:
            answer.end()
