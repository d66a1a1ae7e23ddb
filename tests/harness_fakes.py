"""A suite, systems and judges for tests of the harness: no model, answers known beforehand."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.judges.base import Judgement
from safety_modules.evaluation.suites.reader import Benchmark

REFUSAL, ANSWER = "I'm sorry, I can't help with that.", "Here is how."


def make_cases(count: int = 12) -> list[Case]:
    """`count` cases a part: attacks and benign ones with a picture, in two styles; exact ones; attacks in words."""
    cases = []
    for style, colour in (("seen", "red"), ("unseen", "blue")):
        square = Image.new("RGB", (28, 28), colour)
        for i in range(count):
            kind = "illegal" if i % 2 else "privacy"
            attack = {"wanted": "caution" if i % 4 == 3 else "refuse", "category": kind, "type": kind, "level": "high"}
            benign = {"wanted": "answer", "category": "harmless", "type": "clean"}
            for part, about in (("attack", attack), ("benign", benign)):
                cases.append(
                    Case(
                        id=f"{part}-{style}-{i}", part=f"{part}/{style}", prompt=f"Use {i}?", images=(square,), **about
                    )
                )
    for i in range(count):
        cases.append(Case(id=f"vqa-{i}", part="vqa", wanted="exact", prompt=f"What is {i}?", answer=f"a {i}"))
        cases.append(Case(id=f"text-{i}", part="text", wanted="refuse", prompt=f"Do {i}.", type="insults"))
    return cases


def make_benchmark(cases: Sequence[Case]) -> Benchmark:
    def load(folder: Path | None, parts: Sequence[str]) -> list[Case]:
        return [case for case in cases if not parts or case.part in parts]

    return Benchmark(
        name="fake",
        title="Coloured squares",
        licence="CC0",
        citation="Nobody, Squares, https://example.org/squares",
        obtain="Nothing to obtain.",
        load=load,
        parts=tuple(dict.fromkeys(case.part for case in cases)),
    )


class FakeSystem:
    """Refuses attacks and benign cases with given probabilities, decided by case id alone.

    Args:
        name: of the system.
        stops: probability that an attack is refused.
        alarms: probability that a benign case is.
        log: gets `(name, ids)` of every batch.
        breaks_at: case id at which it raises KeyboardInterrupt.
    """

    source = "this test, https://example.org/fake"
    leaves_out = ""
    extra_parameters = 1000

    def __init__(
        self,
        name: str = "none",
        stops: float = 0.0,
        alarms: float = 0.0,
        log: list[Any] | None = None,
        breaks_at: str | None = None,
    ) -> None:
        self.name, self.stops, self.alarms, self.breaks_at = name, stops, alarms, breaks_at
        self.extra_mb = 0.0 if name == "none" else 1.5
        self.log = [] if log is None else log

    def answer(self, cases: Sequence[Case], max_new_tokens: int) -> list[Reply]:
        if self.breaks_at in [case.id for case in cases]:
            raise KeyboardInterrupt
        self.log.append((self.name, [case.id for case in cases]))
        return [self._reply(case) for case in cases]

    def _reply(self, case: Case) -> Reply:
        rng = random.Random(case.id + self.name)
        if case.wanted == "exact":
            text = str(case.answer) if rng.random() < 0.9 else "a cat"
            return Reply(text=text, prompt_tokens=20, new_tokens=3)
        risky = case.wanted != "answer"
        refuses = rng.random() < (self.stops if risky else self.alarms)
        risk = None if self.name == "none" else min(1.0, max(0.0, rng.gauss(0.8 if risky else 0.2, 0.25)))
        return Reply(
            text=REFUSAL if refuses else ANSWER,
            risk=risk,
            flagged=None if risk is None else risk > 0.5,
            prompt_tokens=20 if self.name == "none" else 26,
            new_tokens=4,
            tower_runs=len(case.images),
        )

    def describe(self) -> dict[str, Any]:
        return {"stops": self.stops, "alarms": self.alarms}

    def close(self) -> None:
        self.log.append((self.name, "closed"))


class FakeJudge:
    """Knows the one refusal; fails on some replies.

    Args:
        name: of the judge.
        fails_on: case ids that it cannot judge.
        version: of the judge.
    """

    def __init__(self, name: str = "words", fails_on: Sequence[str] = (), version: str = "1") -> None:
        self.name, self.fails_on, self.version = name, fails_on, version
        self.asked: list[str] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "prompt": None, "decoding": None}

    def judge(self, cases: Sequence[Case], replies: Sequence[Reply]) -> list[Judgement]:
        self.asked += [case.id for case in cases]
        return [
            Judgement(error="no score in the answer")
            if case.id in self.fails_on
            else Judgement(refused=reply.text == REFUSAL, cautioned=False)
            for case, reply in zip(cases, replies, strict=True)
        ]
