"""One guarded model behind HTTP: what each route answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TextIO, TypeVar

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.io.strict import quote
from safety_modules.policy.verdict import Verdict, riskiest
from safety_modules.serving.access import Access, Caller, Choices, Chosen
from safety_modules.serving.answering import Answered, Judged
from safety_modules.serving.batcher import Batcher, Job
from safety_modules.serving.door import GONE, Door
from safety_modules.serving.engine import Engine, Judgement, Question
from safety_modules.serving.errors import RequestRefused, as_refused, overloaded
from safety_modules.serving.exchange import Exchange
from safety_modules.serving.fetch import Fetch
from safety_modules.serving.images import Pictures
from safety_modules.serving.reading import Prompt, Reader, Shown
from safety_modules.serving.replies import DONE, Completion, guardrail, header, moderation, safety_field, streamed
from safety_modules.serving.schemas import ChatRequest, GuardrailRequest, ModerationRequest, parsed
from safety_modules.serving.settings import ServeSettings
from safety_modules.serving.stream import EventStream, pieces_until

T = TypeVar("T")


class Service(Door):
    """One guarded model behind HTTP.

    Args:
        safety: on the model, with a guard among its defences.
        settings: limits.
        access: keys.
        model: its name for clients.
        adapter: what identifies the adapter, for /healthz.
        room: positions that the language model has; None = not known.
        log_stream: where log lines go; default: standard output.
        engine: what answers; default: this process's own model.

    Raises:
        GuardError: there is no guard.
        ConfigError: others could reach a server without keys.
    """

    def __init__(
        self,
        safety: SafetyAttachment,
        settings: ServeSettings,
        access: Access,
        model: str,
        adapter: Mapping[str, Any],
        room: int | None = None,
        log_stream: TextIO | None = None,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(settings, access, log_stream)
        safety.guard.check()
        self.model = model
        self._choices = Choices(safety)
        self._reader = Reader(safety.backbone, settings, Pictures(settings, Fetch(settings)), room)
        self._engine = engine or Engine(safety)
        self._about = {
            "model": model,
            "adapter": dict(adapter),
            "policy": self._choices.operators.digest,
            "base": safety.backbone.fingerprint(),
        }
        self._started = int(time.time())
        self._threads = ThreadPoolExecutor(settings.workers, "safety-modules-reading")
        self._batcher: Batcher | None = None

    @asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """Inside this block requests are answered."""
        one = self.settings
        self._batcher = Batcher(self._engine.run, one.max_batch, one.max_batch_tokens, one.batch_wait, one.max_queue)
        self._batcher.start()
        try:
            yield
        finally:
            await self._batcher.stop()
            self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def begun(self) -> bool:
        """Whether `running` was entered."""
        return self._batcher is not None

    @property
    def working(self) -> bool:
        """Whether requests are answered."""
        return self._batcher is not None and self._batcher.working

    async def _read(self, exchange: Exchange, read: Callable[..., T], *arguments: Any) -> T:
        """Read a request, beside the loop."""
        return await exchange.waited(asyncio.get_running_loop().run_in_executor(self._threads, read, *arguments))

    @property
    def _queue(self) -> Batcher:
        assert self._batcher is not None, "requests come in while it is running"
        return self._batcher

    def _submit(self, work: Question | Judgement, cost: int) -> Job:
        job = Job(work.key, work, cost)
        self._queue.submit(job)
        return job

    def _decided(self, exchange: Exchange, safety: Mapping[str, Any], verdicts: Sequence[Verdict]) -> None:
        """Note what was judged: by the type of the rule that fired, `clean` where none did."""
        for one in verdicts:
            self.count(exchange, "pictures", one.type if one.flagged else "clean", one.action)
        names = ("mode", "policy", "judged", "type", "level", "action", "rule")
        exchange.about |= {f"safety_{name}": safety[name] for name in names}

    def _took(self, exchange: Exchange, job: Job, prompt: int = 0, answer: int = 0) -> None:
        """Note what answering took."""
        self.count(exchange, "batches", value=job.batch)
        self.count(exchange, "tokens", "prompt", value=prompt)
        self.count(exchange, "tokens", "answer", value=answer)
        about = {"batch": job.batch, "waited": round(job.waited, 4)}
        exchange.about |= about | ({"prompt_tokens": prompt, "answer_tokens": answer} if prompt else {})

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self.model:
            raise RequestRefused(
                404, f"no such model: expected {self.model!r}, got {quote(name)}.", "model_not_found", "model"
            )

    def _asked(self, body: bytes, caller: Caller) -> tuple[Chosen, Prompt]:
        """What a chat request says."""
        asked = parsed(body, ChatRequest)
        self._check_model(asked.model)
        return self._choices.chosen(asked.safety, caller), self._reader.conversation(asked)

    async def chat(self, exchange: Exchange, caller: Caller) -> Response:
        """`/v1/chat/completions`."""
        loop = asyncio.get_running_loop()
        began: asyncio.Future[Judged] = loop.create_future()
        pieces: asyncio.Queue[str] = asyncio.Queue()

        def begin(judged: Judged) -> None:
            if not began.done():
                began.set_result(judged)

        body = await exchange.body()
        with self._queue.expecting():
            chosen, prompt = await self._read(exchange, self._asked, body, caller)
            del body  # it may be large, and answering takes long
            exchange.about["pictures"] = prompt.images
            question = Question(
                prompt.ids,
                prompt.pixels,
                chosen,
                prompt.sampling,
                prompt.limit,
                prompt.stops,
                lambda judged: _in(loop, begin, judged),
                (lambda text: _in(loop, pieces.put_nowait, text)) if prompt.stream else None,
            )
            job = self._submit(question, len(prompt.ids))
        completion = Completion(self.model, len(prompt.ids))
        try:
            if not prompt.stream:
                answered: Answered = await exchange.waited(job.done)
                safety = self._noted(exchange, job, chosen, answered, len(prompt.ids))
                return JSONResponse(completion.whole(answered, safety), headers=header(safety))
            await exchange.waited(asyncio.wait({began, job.done}, return_when=asyncio.FIRST_COMPLETED))
            if not began.done():
                await job.done  # why not
            safety = safety_field(chosen, began.result().verdicts, began.result().verdict)
        except BaseException:
            job.drop()
            raise

        async def events() -> AsyncIterator[bytes]:
            yield streamed(completion.first(safety))
            async for piece in pieces_until(job.done, pieces, exchange.until):
                yield streamed(completion.piece(piece))
            try:
                if not job.done.done():
                    raise overloaded(f"expected an answer within {self.settings.request_seconds:g} seconds, got a part")
                answered = job.done.result()
            except Exception as error:
                refused = as_refused(error)
                exchange.about["error"] = refused.code
                yield streamed(refused.body())
                return
            self._noted(exchange, job, chosen, answered, len(prompt.ids))
            yield streamed(completion.last(answered))
            if prompt.stream_usage:
                yield streamed(completion.used(answered))
            yield DONE

        def over() -> None:
            status = 200 if job.finished else GONE
            job.drop()
            self.ended(exchange, status)

        return EventStream(events(), over, {**header(safety), "cache-control": "no-store", "x-accel-buffering": "no"})

    def _noted(
        self, exchange: Exchange, job: Job, chosen: Chosen, answered: Answered, prompt_tokens: int
    ) -> dict[str, Any]:
        """The field `safety` of a whole answer, which is noted."""
        judged = answered.judged
        safety = safety_field(chosen, judged.verdicts, judged.verdict)
        self._decided(exchange, safety, judged.verdicts)
        self._took(exchange, job, prompt_tokens, answered.tokens)
        exchange.about["finish"] = answered.finish
        return safety

    async def moderate(self, exchange: Exchange, caller: Caller) -> Response:
        """`/v1/moderations`."""
        verdicts, chosen = await self._judged(exchange, self._shown, caller)
        reply = moderation(self.model, chosen, verdicts)
        return JSONResponse(reply, headers=header(reply["results"][0]["safety"]))

    async def guardrail(self, exchange: Exchange, caller: Caller) -> Response:
        """litellm's generic guardrail. Words alone pass: this guard judges pictures, and what is asked about them."""
        verdicts, _ = await self._judged(exchange, self._checked, caller)
        return JSONResponse(guardrail(verdicts))

    def _shown(self, body: bytes, caller: Caller) -> tuple[Shown, Chosen]:
        """What a request to moderate says."""
        asked = parsed(body, ModerationRequest)
        if asked.safety is not None and asked.safety.mode != "enforce":
            raise RequestRefused(
                400,
                f"nothing judged: expected safety.mode 'enforce', got {asked.safety.mode!r}. Leave it out.",
                "invalid_body",
                "safety.mode",
            )
        chosen = self._choices.chosen(asked.safety, caller)
        return self._reader.judged(asked), chosen

    def _checked(self, body: bytes, _caller: Caller) -> tuple[Shown, Chosen]:
        """What a gateway asks about."""
        asked = parsed(body, GuardrailRequest)
        return self._reader.shown(asked.images or [], asked.texts or []), self._choices.operators

    async def _judged(
        self, exchange: Exchange, read: Callable[[bytes, Caller], tuple[Shown, Chosen]], caller: Caller
    ) -> tuple[list[Verdict], Chosen]:
        """Verdicts on pictures, if there are some, and what was chosen; both are noted."""
        body = await exchange.body()
        with self._queue.expecting():
            shown, chosen = await self._read(exchange, read, body, caller)
            exchange.about["pictures"] = len(shown.frames)
            if not shown.frames:
                return [], chosen
            work = Judgement(shown.frames, shown.numbers, shown.question, chosen.policy)
            job = self._submit(work, sum(map(len, shown.frames)))
        try:
            verdicts: list[Verdict] = await exchange.waited(job.done)
        finally:
            job.drop()
        self._decided(exchange, safety_field(chosen, verdicts, riskiest(verdicts)), verdicts)
        self._took(exchange, job)
        return verdicts, chosen

    async def models(self, _exchange: Exchange, _caller: Caller) -> Response:
        """`/v1/models`."""
        one = {"id": self.model, "object": "model", "created": self._started, "owned_by": "safety-modules"}
        return JSONResponse({"object": "list", "data": [one]})

    async def health(self) -> Response:
        """`/healthz`: what is served, and whether it is; for everybody."""
        about = {"status": "ok" if self.working else "stopped", **self._about}
        return JSONResponse(about, 200 if self.working else 503)


def _in(loop: asyncio.AbstractEventLoop, do: Callable[..., Any], *arguments: Any) -> None:
    """Call something in the loop, from the model's thread."""
    loop.call_soon_threadsafe(do, *arguments)
