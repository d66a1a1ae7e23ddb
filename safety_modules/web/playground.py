"""A guarded model to play with: judged and answered as somebody chooses, by the server's own reader and engine."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.hub import find_adapter
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.policy.looser import looser
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import Verdict
from safety_modules.serving.access import Chosen
from safety_modules.serving.answering import Answered
from safety_modules.serving.batcher import Job
from safety_modules.serving.engine import Engine, Question
from safety_modules.serving.errors import RequestRefused, overloaded
from safety_modules.serving.fetch import Fetch
from safety_modules.serving.images import Pictures
from safety_modules.serving.reading import Prompt, Reader
from safety_modules.serving.schemas import ChatRequest, ImageAddress, ImagePart, Message, TextPart
from safety_modules.serving.settings import ServeSettings
from safety_modules.serving.stream import pieces_until
from safety_modules.taxonomy import Taxonomy


class Known(NamedTuple):
    """What is known of an adapter: its types and levels, how many types it was first trained on, its thresholds."""

    taxonomy: Taxonomy
    first_types: int
    thresholds: Mapping[str, float]

    def fitted(self, policy: Policy) -> Policy:
        """The policy without rules and words for types and levels that this adapter does not have."""
        rules = {type: rule for type, rule in policy.rules.items() if type in self.taxonomy.types}
        wording = {level: words for level, words in policy.wording.items() if level in self.taxonomy.levels}
        return policy.model_copy(update={"rules": rules, "wording": wording})


@dataclass(frozen=True)
class Setting:
    """How something is judged and answered.

    Attributes:
        adapter: name of the one that judges and answers.
        policy: with a rule for every type of every adapter.
        off: names of defences that are switched off.
    """

    adapter: str
    policy: Policy
    off: Sequence[str] = ()


class Playground:
    """One guarded model, with one adapter or several to compare.

    Args:
        safety: on the model, with a guard among its defences.
        others: folders of more adapters, by name.
        settings: limits of pictures, words and answers.

    Attributes:
        adapters: all, by name; the first one is the handle's own.
        policy: the handle's, with rules for the types of every adapter.

    Raises:
        AdapterError: an adapter is refused.
        PolicyError: the policy has no rule for one of the types.
    """

    def __init__(
        self,
        safety: SafetyAttachment,
        others: Mapping[str, str | PathLike[str]] | None = None,
        settings: ServeSettings | None = None,
    ) -> None:
        self.safety, self.settings = safety, settings or ServeSettings()
        policy, design = safety.policy_for(None), safety.config
        self.adapters = {safety.active_adapter: Known(design.taxonomy, len(design.first_types), safety.thresholds)}
        for name, place in (others or {}).items():
            safety.load_adapter(place, name)
            guard = read_adapter(find_adapter(place)).guard
            self.adapters[name] = Known(guard.design.taxonomy, len(guard.design.first_types), guard.thresholds)
            own = Policy.default(guard.design.taxonomy, guard.rules)
            policy = policy.completed(own.rules).model_copy(update={"wording": {**own.wording, **policy.wording}})
            self.adapters[name].fitted(policy).check(guard.design.taxonomy)
        self.policy = policy
        room = getattr(safety.backbone.model.config.get_text_config(), "max_position_embeddings", None)
        self._reader = Reader(safety.backbone, self.settings, Pictures(self.settings, Fetch(self.settings)), room)

    @property
    def limits(self) -> dict[str, float]:
        """The score from which each type's rule fires, or would if it were on: of the first adapter that has it."""
        logged = self.policy.changed({"rules": {type: {"action": "log"} for type in self.policy.rules}})
        found: dict[str, float] = {}
        for known in self.adapters.values():
            found = known.fitted(logged).limits(known.taxonomy, known.thresholds) | found
        return found

    def looser(self, policy: Policy) -> list[str]:
        """Why this policy may do less than the one the page began with: a sentence each (see `policy.looser`)."""
        found = [
            looser(known.fitted(policy), known.fitted(self.policy), known.taxonomy, known.thresholds, known.first_types)
            for known in self.adapters.values()
        ]
        return [*dict.fromkeys(sentence for some in found for sentence in some)]

    def prompt(self, picture: Path | None, question: str) -> Prompt:
        """A question, with or without a picture, as the model gets it.

        Raises:
            RequestRefused: there is no question, or the picture is too large or cannot be read.
        """
        if not question.strip():
            raise RequestRefused(400, "not asked: expected a question, got none. Write one.")
        parts: list[TextPart | ImagePart] = [TextPart(type="text", text=question)]
        if picture is not None:
            parts.insert(0, ImagePart(type="image_url", image_url=ImageAddress(url=self._address(picture))))
        return self._reader.conversation(ChatRequest(messages=[Message(role="user", content=parts)]))

    def _address(self, picture: Path) -> str:
        if (size := picture.stat().st_size) > self.settings.max_image_bytes:
            raise RequestRefused(
                400, f"picture not read: expected at most {self.settings.max_image_bytes} bytes, got {size}."
            )
        return f"data:;base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"

    def judged(self, prompt: Prompt, question: str, setting: Setting) -> Verdict | None:
        """The verdict on a prompt's picture; None where there is none. The language model does not run.

        Raises:
            SafetyModulesError: it cannot be judged, or the policy does not fit.
        """
        if prompt.pixels is None:
            return None
        with self.safety.backbone.lock:
            policy = self._use(setting)
            return self.safety.classify(pixel_values=prompt.pixels, questions=question, policy=policy)[0]

    async def answer(self, prompt: Prompt, setting: Setting, guarded: bool = True) -> AsyncIterator[str]:
        """The answer as far as it is known, again and again until it is whole.

        Args:
            prompt: from `prompt`.
            setting: who answers.
            guarded: False = the base alone.

        Raises:
            SafetyModulesError: it cannot be answered so.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str] = asyncio.Queue()

        def said(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        policy = self.adapters[setting.adapter].fitted(setting.policy)
        question = Question(
            prompt.ids,
            prompt.pixels,
            Chosen("enforce" if guarded else "off", policy, policy.digest),
            prompt.sampling,
            prompt.limit,
            prompt.stops,
            lambda judged: None,
            said,
        )
        job, text = Job(question.key, question), ""
        loop.run_in_executor(None, self._run, job, setting)
        try:
            async for piece in pieces_until(job.done, pieces, time.monotonic() + self.settings.request_seconds):
                text += piece
                yield text
            if not job.done.done():
                raise overloaded(f"expected an answer within {self.settings.request_seconds:g} seconds, got a part")
            answered: Answered = job.done.result()
            yield answered.text
        finally:
            job.drop()

    def _run(self, job: Job, setting: Setting) -> None:
        """Answer, in a thread of its own; whoever asks at the same time waits."""
        try:
            with self.safety.backbone.lock:
                self._use(setting)
                with self.safety.disabled(*setting.off) if setting.off else nullcontext():
                    Engine(self.safety).run([job])
        except Exception as error:
            job.finish(error)

    def _use(self, setting: Setting) -> Policy:
        """Switch to the adapter. Returns the policy, fitted to it."""
        policy = self.adapters[setting.adapter].fitted(setting.policy)
        self.safety.set_adapter(setting.adapter, policy)
        return policy
