"""Judges read the transcripts; what they say is kept, and what they could not say is asked again next time."""

import hashlib
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.harness.journal import Journal
from safety_modules.evaluation.harness.transcripts import Transcript
from safety_modules.evaluation.judges.base import Judge, Judgement
from safety_modules.io.progress import track

JUDGED_AT_ONCE = 64
"""Replies between two writes to disk."""

Judgements = dict[tuple[str, str], Judgement]
"""By system and case."""


class JudgedReply(BaseModel):
    """A line of `judgements-<judge>.jsonl`.

    Attributes:
        system: whose reply it is.
        case: id of the case.
        reply: digest of the reply's text; of another reply it says nothing.
        judgement: what the judge said.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str
    case: str
    reply: str
    judgement: Judgement


def judge_all(
    judge: Judge,
    cases: Sequence[Case],
    transcripts: Sequence[Transcript],
    journal: Journal[JudgedReply],
    progress: bool = False,
) -> Judgements:
    """Have every reply judged that has no judgement yet; exact cases need none.

    Replies that the judge failed on before are given to it again: its endpoint may be back.

    Raises:
        DataError: the journal is damaged, or the judge gave too few or too many judgements.
    """
    by_id = {case.id: case for case in cases}
    wanted = [line for line in transcripts if by_id[line.case].wanted != "exact"]
    digests = {(line.system, line.case): reply_digest(line.reply.text) for line in wanted}
    kept = {
        (row.system, row.case): row
        for row in journal.read()
        if digests.get((row.system, row.case)) == row.reply and row.judgement.error is None
    }
    journal.keep(kept.values())
    todo = [line for line in wanted if (line.system, line.case) not in kept]
    with track(f"judge {judge.name}", len(todo), progress) as advance:
        for start in range(0, len(todo), JUDGED_AT_ONCE):
            part = todo[start : start + JUDGED_AT_ONCE]
            said = judge.judge([by_id[line.case] for line in part], [line.reply for line in part])
            if len(said) != len(part):
                raise DataError(
                    f"judge {judge.name}: expected {len(part)} judgements of as many replies, got {len(said)}. "
                    "Its `judge` must give one for each, in order."
                )
            new = [
                JudgedReply(
                    system=line.system, case=line.case, reply=digests[line.system, line.case], judgement=judgement
                )
                for line, judgement in zip(part, said, strict=True)
            ]
            journal.append(new)
            kept |= {(row.system, row.case): row for row in new}
            advance(len(part))
    return {key: kept[key].judgement for key in digests}


def error_share(judgements: Judgements) -> float:
    """Share of the replies that the judge could not judge; 0 where there was nothing to judge."""
    return sum(j.error is not None for j in judgements.values()) / len(judgements) if judgements else 0.0


def reply_digest(text: str) -> str:
    """What a judgement remembers of the reply it is about."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
