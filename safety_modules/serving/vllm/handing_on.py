"""Judged here, answered elsewhere: verdicts and embeddings are this process's, words an engine's that takes these."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import torch

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.defences.answer import Row
from safety_modules.defences.guard.guard import Guard
from safety_modules.errors import ConfigError
from safety_modules.serving.answering import Answering
from safety_modules.serving.batcher import Job
from safety_modules.serving.engine import Engine, Question, Sampling
from safety_modules.serving.errors import as_refused
from safety_modules.serving.schemas import refused_body


@dataclass(frozen=True)
class Asked:
    """A conversation for the engine, judged already.

    Attributes:
        embeddings: of its prompt (T, D), without padding: pictures, safety tokens and hint are in it.
        steered: whether the adapter's LoRA is to act.
        sampling: of the answer.
        limit: new tokens.
        ends: ids that end it.
    """

    embeddings: torch.Tensor
    steered: bool
    sampling: Sampling
    limit: int
    ends: frozenset[int]


class LanguageModel(Protocol):
    """The engine: the one thing this needs of it."""

    def __call__(self, asked: Asked) -> AsyncGenerator[Sequence[int], None]:
        """New ids as they come; it stops behind one of `ends`, at the limit, or when it is closed."""


class HandingOn(Engine):
    """Judges here, and has what the policy does not refuse answered by a language model elsewhere.

    Args:
        safety: on a model whose blocks may be empty (`backbones.tower.without_blocks`).
        language_model: answers; called in the loop of the server.
        room: positions that it has.

    Raises:
        ConfigError: there is another defence than a guard, which would have to act inside the engine.
    """

    def __init__(self, safety: SafetyAttachment, language_model: LanguageModel, room: int) -> None:
        super().__init__(safety)
        others = [one.kind for one in safety.defences if not isinstance(one, Guard)]
        if others:
            raise ConfigError(
                f"not served: expected a guard alone in front of an engine, got {', '.join(others)} beside it, which "
                "cannot act there. Serve this adapter with safety-modules serve."
            )
        self._language_model, self._room = language_model, room

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Judge questions in one run of the tower; answer those that are refused, hand on the others."""
        chosen = jobs[0].work.chosen
        inputs = self._inputs([job.work for job in jobs])
        prepared = self.safety.prepare(safety=chosen.mode != "off", policy=chosen.policy, **inputs)
        handed = dict(zip(prepared.rows, zip(prepared.embeddings, prepared.steered, strict=True), strict=True))
        others: list[tuple[Job, Answering, Asked]] = []
        for row, job in enumerate(jobs):
            answer, refusal = self._answering(job), prepared.refusals.get(row)
            verdict, verdicts = prepared.verdicts[row], prepared.image_verdicts[row]
            answer.begin(Row(verdict=verdict, image_verdicts=verdicts, refusal=refusal))
            if refusal is not None:
                for token in self.backbone.answer_ids(refusal):
                    answer.put(token)
                answer.end()
                continue
            embeddings, steered = handed[row]
            work: Question = job.work
            left = self._room - len(embeddings)  # hint and safety tokens take room that the reader could not know of
            if left < 1:
                self._fail(
                    job, refused_body([f"expected a prompt that fits into {self._room} tokens, got {len(embeddings)}."])
                )
                continue
            asked = Asked(embeddings.cpu(), steered, work.sampling, min(work.limit, left), self.ends)
            others.append((job, answer, asked))
        for job, answer, asked in others:  # last: what fails above is tried again, each alone
            job.elsewhere = True
            asyncio.run_coroutine_threadsafe(self._hand_on(job, answer, asked), job.loop)

    async def _hand_on(self, job: Job, answer: Answering, asked: Asked) -> None:
        task = asyncio.current_task()
        assert task is not None
        job.done.add_done_callback(lambda _: task.cancel() if job.dropped else None)
        try:
            async with aclosing(self._language_model(asked)) as pieces:
                async for piece in pieces:
                    for token in piece:
                        answer.put(token)
                    if answer.answered is not None or job.dropped:
                        break
            answer.end()
        except Exception as error:
            self._fail(job, error)
        finally:
            job.finish(as_refused(RuntimeError()))  # only the first counts: whatever happened, none is forgotten
