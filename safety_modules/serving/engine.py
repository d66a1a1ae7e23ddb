"""What runs in the one thread that has the model: batches of questions to answer, batches of pictures to judge."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones.generation import end_ids
from safety_modules.defences.answer import Row
from safety_modules.defences.guard.steer import left_pad
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import of_frames
from safety_modules.serving.access import Chosen
from safety_modules.serving.answering import Answering, Judged, Rows
from safety_modules.serving.batcher import Job
from safety_modules.serving.errors import as_refused

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; temperature 0 = the most probable one, always."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Question:
    """A conversation to answer.

    Attributes:
        ids: prompt (T,).
        pixels: of its pictures (N, C, H, W), or None.
        chosen: mode and policy.
        sampling: of its tokens.
        limit: new tokens.
        stops: words that end the answer.
        began, said: see `Answering`.
    """

    ids: torch.Tensor
    pixels: torch.Tensor | None
    chosen: Chosen
    sampling: Sampling
    limit: int
    stops: Sequence[str]
    began: Callable[[Judged], None]
    said: Callable[[str], None] | None

    @property
    def key(self) -> tuple[Any, ...]:
        """Questions with an equal one can be answered in one call."""
        # Limits of one power of two: nobody generates for a neighbour who may have much longer answers.
        limit = (self.limit - 1).bit_length()
        alone = object() if self.sampling.seed is not None else None
        return ("chat", self.chosen.mode, self.chosen.digest, self.sampling, limit, self.pixels is None, alone)


@dataclass(frozen=True)
class Judgement:
    """Pictures to judge, with what is asked about them.

    Attributes:
        frames: pixel values of each picture's frames, (n, C, H, W) each.
        numbers: of these frames, and how many there are of each picture.
        question: None = the pictures alone.
        policy: which says what fires.
    """

    frames: Sequence[torch.Tensor]
    numbers: Sequence[tuple[Sequence[int], int]]
    question: str | None
    policy: Policy

    @property
    def key(self) -> tuple[Any, ...]:
        """Pictures with an equal one can be judged in one run."""
        return ("judge", self.policy.digest)


class Engine:
    """Answers and judges with one guarded model.

    Args:
        safety: on the model.
    """

    def __init__(self, safety: SafetyAttachment) -> None:
        self.safety = safety
        self.backbone = safety.backbone
        self.tokenizer = self.backbone.processor.tokenizer
        self.ends = frozenset(end_ids(self.backbone.model, {}))

    def run(self, jobs: Sequence[Job]) -> None:
        """Answer jobs of one key, and finish each. A job that cannot be answered spoils none of the others."""
        do = self._answer if isinstance(jobs[0].work, Question) else self._judge
        try:
            do(jobs)
        except Exception as error:
            for job in jobs:
                if job.finished:
                    continue
                if len(jobs) > 1 and not job.told:
                    self.run([job])
                else:
                    self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        refused = as_refused(error)
        if refused.status >= 500:
            LOG.error("a request failed", exc_info=error)
        job.finish(refused)

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Answer questions in one guarded call."""
        first: Question = jobs[0].work
        guarded = first.chosen.mode != "off"
        live = not (guarded and any(one.retracts for one in self.safety.defences_on))
        answers = [self._answering(job) for job in jobs]
        options: dict[str, Any] = {
            "do_sample": first.sampling.temperature > 0,
            "num_beams": 1,
            "max_new_tokens": max(job.work.limit for job in jobs),
            "pad_token_id": self.backbone.pad_token_id,
            "stopping_criteria": StoppingCriteriaList([_Unwanted(jobs)]),
        }
        if options["do_sample"]:
            options |= {"temperature": first.sampling.temperature, "top_p": first.sampling.top_p}
        if live:
            options["streamer"] = Rows(answers)
        options |= self._inputs([job.work for job in jobs])
        with _seeded(first.sampling.seed):
            output = self.safety.generate(safety=guarded, policy=first.chosen.policy, **options)
        if not live:
            self._tell(answers, output, options["input_ids"].shape[1])
        for answer in answers:
            answer.end()

    def _answering(self, job: Job) -> Answering:
        asked: Question = job.work

        def said(piece: str) -> None:
            job.told = True
            assert asked.said is not None
            asked.said(piece)

        return Answering(
            decode=self._decode,
            ends=self.ends,
            limit=asked.limit,
            stops=asked.stops,
            began=asked.began,
            finished=job.finish,
            said=None if asked.said is None else said,
        )

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _inputs(self, asked: Sequence[Question]) -> dict[str, torch.Tensor]:
        """Prompts padded on the left, and their pictures, on the model's device."""
        rows = [one.ids for one in asked]
        found = {"input_ids": left_pad(rows, self.backbone.pad_token_id)}
        found["attention_mask"] = left_pad([torch.ones_like(ids) for ids in rows], 0)
        pixels = [one.pixels for one in asked if one.pixels is not None]
        if pixels:
            found |= self.backbone.images_taken(self.backbone.joined(pixels))
        return {name: value.to(self.backbone.device) for name, value in found.items()}

    def _tell(self, answers: Sequence[Answering], output: Any, width: int) -> None:
        """Answers that nobody could hear while they were made."""
        for row, answer in enumerate(answers):
            said = {"verdict": output.verdicts[row], "image_verdicts": output.image_verdicts[row]}
            answer.begin(Row(**said, refusal=output.refusals[row]))
            for token in output.sequences[row, width:].tolist():
                answer.put(token)

    def _judge(self, jobs: Sequence[Job]) -> None:
        """Judge pictures in one run of tower and head."""
        works: list[Judgement] = [job.work for job in jobs]
        frames = self.backbone.joined([frame for work in works for frame in work.frames])
        questions = [work.question for work in works for frame in work.frames for _ in range(len(frame))]
        found = self.safety.classify(pixel_values=frames, questions=questions, policy=works[0].policy)
        verdicts = iter(found)
        for job, work in zip(jobs, works, strict=True):
            job.finish(
                [
                    replace(of_frames([*islice(verdicts, len(numbers))], numbers, total), image_index=place)
                    for place, (numbers, total) in enumerate(work.numbers)
                ]
            )


class _Unwanted(StoppingCriteria):
    """Ends a call whose answers are all whole, or wanted by nobody any more."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        over = all(job.finished or job.dropped for job in self._jobs)
        return torch.full((len(input_ids),), over, dtype=torch.bool, device=input_ids.device)


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Tokens are drawn from this seed inside the block; outside nothing has changed."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
