"""Judged here, answered elsewhere: what the engine behind the seam is asked, and what clients get."""

import asyncio
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra serve")

from serving_cases import alone, ask, guarded, picture_part, records, served, turn

from safety_modules import attach_safety, pocket
from safety_modules.backbones.tower import without_blocks
from safety_modules.errors import ConfigError
from safety_modules.paths import checkpoint_dir
from safety_modules.serving import Access
from safety_modules.serving.vllm.handing_on import HandingOn

ALL = Access.model_validate({"anonymous": ["off", "report", "looser"]})
REFUSE = {"policy": {"rules": {name: {"action": "refuse"} for name in guarded().config.taxonomy.types}}}


class Transformers:
    """An engine that takes embeddings: pocket's own language model, whole, in this process.

    Attributes:
        asked: all that it was asked.
        closed: how many answers are over, however.
        fails: raised in the place of the third token.
        hangs: no token comes.
    """

    def __init__(self, fails=None, hangs=False):
        self.asked, self.closed, self.fails, self.hangs = [], 0, fails, hangs

    async def __call__(self, asked):
        self.asked.append(asked)
        safety, embeddings = guarded(), asked.embeddings[None]
        try:
            if self.hangs:
                await asyncio.sleep(3600)
            with safety.inference(), safety.lora_mounted(asked.steered):
                ids = safety.backbone.base_generate(
                    inputs_embeds=embeddings,
                    attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
                    do_sample=False,
                    max_new_tokens=asked.limit,
                )[0].tolist()
            for place, token in enumerate(ids):
                if self.fails is not None and place == 2:
                    raise self.fails
                await asyncio.sleep(0.001)
                yield [token]
        finally:
            self.closed += 1


@pytest.fixture(scope="module")
def front():
    model, processor = without_blocks(Path(checkpoint_dir()))
    return attach_safety(model, processor, adapter=pocket.adapter_dir())


@pytest.fixture(scope="module")
def running(front):
    engine = Transformers()
    with served(front, ALL, engine=HandingOn(front, engine, 1024)) as server:
        server.engine = engine
        yield server


@pytest.fixture
def server(running):
    running.engine.asked.clear()
    return running


def prepared(body, **options):
    """What the handle of the whole model prepares for a request of one picture."""
    safety, (part, text) = guarded(), body["messages"][0]["content"]
    processor = safety.backbone.processor
    (record,) = [one for kind in ("attack", "benign") for one in records(kind) if picture_part(one.image) == part]
    turns = [{"role": "user", "content": [{"type": "image"}, text]}]
    words = processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = processor(text=[words], images=[record.image.convert("RGB")], return_tensors="pt")
    return safety.prepare(**inputs, **options)


@pytest.mark.parametrize("kind", ["attack", "benign"])
def test_answers_and_verdicts_are_the_guarded_calls(server, kind):
    for record in records(kind)[:4]:
        reply, own = server.chat(ask(record)), alone(record)
        assert reply.status == 200 and reply.text == own.text
        said, verdict = reply.json["safety"], own.verdict.to_dict()
        assert [said[name] for name in ("type", "level", "action")] == [
            verdict[name] for name in ("type", "level", "action")
        ]
        assert said["risk"] == pytest.approx(verdict["risk"], abs=1e-4)
        assert f'"action": "{said["action"]}"' in reply.headers["x-safety"]
        assert server.engine.asked[-1].steered == (verdict["action"] == "hint")


@pytest.mark.parametrize("kind", ["attack", "benign"])
def test_the_engine_gets_bit_for_bit_what_the_guarded_call_would_feed(server, kind):
    body = ask(records(kind)[0])
    server.chat(body)
    (asked,), own = server.engine.asked, prepared(body)
    assert torch.equal(asked.embeddings, own.embeddings[0]) and asked.steered == own.steered[0] == (kind == "attack")
    plain = prepared(body, safety=False).embeddings[0]
    tokens = guarded().config.num_lm_tokens
    assert len(asked.embeddings) == len(plain) if kind == "benign" else len(asked.embeddings) > len(plain) + tokens


def test_words_without_a_picture_are_asked_as_they_are(server):
    server.chat({"messages": [turn("hello")], "max_tokens": 4})
    (asked,) = server.engine.asked
    backbone = guarded().backbone
    ids = torch.tensor([backbone.prompt_ids("hello", images=0)])
    assert torch.equal(asked.embeddings, backbone.embed_text(ids)[0]) and not asked.steered and asked.limit == 4


def test_a_refusal_needs_no_engine(server):
    record = records("attack")[0]
    choice = server.chat(ask(record, max_tokens=60, safety=REFUSE)).json["choices"][0]
    assert choice["finish_reason"] == "content_filter" and choice["message"]["refusal"] and not server.engine.asked


def test_modes_that_do_not_enforce_get_the_bases_own_answer(server):
    record = records("attack")[0]
    for mode, judged in (("off", 0), ("report", 1)):
        reply = server.chat(ask(record, safety={"mode": mode}))
        assert reply.json["safety"]["judged"] == judged and reply.text == alone(record, safety=False).text
        assert not server.engine.asked.pop().steered


def test_embeddings_of_a_clients_own_are_refused(server):
    for part in (
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "prompt_embeds", "prompt_embeds": "AAAA"},
    ):
        reply = server.chat({"messages": [{"role": "user", "content": [part]}]})
        assert reply.status == 400 and reply.error["code"] == "invalid_body"
    assert server.chat({**ask(records("benign")[0]), "prompt_embeds": "AAAA"}).status == 400
    assert not server.engine.asked


def test_a_stream_has_the_verdict_first_and_the_same_words(server):
    record = records("attack")[0]
    reply = server.chat(ask(record, stream=True))
    *events, done = reply.events
    assert events[0]["safety"]["action"] == "hint" and done == "[DONE]"
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in events) == alone(record).text


def test_the_engine_is_told_when_a_stop_ends_an_answer(server):
    record = records("attack")[0]
    first = alone(record).text.split()[0]
    before = server.engine.closed
    reply = server.chat(ask(record, stop=[f"{first} "]))
    assert reply.text == "" and reply.json["choices"][0]["finish_reason"] == "stop"
    assert server.engine.closed == before + 1


def test_many_at_a_time_get_each_their_own(server):
    from concurrent.futures import ThreadPoolExecutor

    asked = [record for kind in ("attack", "benign") for record in records(kind)[:4]]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda record: server.chat(ask(record)), asked))
    assert [reply.text for reply in found] == [alone(record).text for record in asked]
    assert any(server.line(reply)["batch"] > 1 for reply in found)


def test_what_hint_and_safety_tokens_leave_no_room_for_is_refused(front):
    record, engine = records("attack")[0], Transformers()
    steered = len(prepared(ask(record)).embeddings[0])
    with served(front, engine=HandingOn(front, engine, steered)) as server:
        assert server.chat(ask(record)).error["code"] == "invalid_body" and not engine.asked
        assert server.chat(ask(records("benign")[0])).status == 200
    with served(front, engine=HandingOn(front, engine, steered + 3)) as server:
        assert server.chat(ask(record)).json["usage"]["completion_tokens"] == engine.asked[-1].limit == 3


def test_an_engine_that_fails_is_told_and_the_server_stays_up(front):
    engine = Transformers(fails=RuntimeError("dead"))
    with served(front, engine=HandingOn(front, engine, 1024)) as server:
        reply = server.chat(ask(records("benign")[0]))
        assert reply.status == 500 and "dead" not in reply.error["message"]
        engine.fails = None
        assert server.chat(ask(records("benign")[0])).status == 200


def test_the_engine_is_told_when_nobody_waits_any_more(front):
    engine = Transformers(hangs=True)
    with served(front, engine=HandingOn(front, engine, 1024), request_seconds=5) as server:
        assert server.chat(ask(records("benign")[0])).status == 503
        until = time.monotonic() + 10
        while not engine.closed and time.monotonic() < until:
            time.sleep(0.01)
        assert engine.closed == len(engine.asked) == 1


def test_a_defence_that_would_have_to_act_in_the_engine_is_refused():
    model, processor = pocket.load()
    safety = attach_safety(model, processor, adapter=pocket.adapter_dir(), defence=["guard", "ecso"])
    with pytest.raises(ConfigError, match="ecso"):
        HandingOn(safety, Transformers(), 1024)
