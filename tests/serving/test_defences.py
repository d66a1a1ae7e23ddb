"""Other defences beside the guard, behind the same server."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from serving_cases import ask, records, served

from safety_modules import attach_safety, pocket


def said(reply):
    assert reply.status == 200
    return "".join(one["choices"][0]["delta"].get("content", "") for one in reply.events[:-1])


def test_a_defence_that_may_take_an_answer_back_streams_it_in_the_end():
    model, processor = pocket.load()
    safety = attach_safety(model, processor, adapter=pocket.adapter_dir(), defence=["guard", "ecso"])
    record = records("benign")[0]
    inputs = processor(
        images=[record.image.convert("RGB")], text=[pocket.prompt(processor, record.question)], return_tensors="pt"
    )
    output = safety.generate(**inputs, do_sample=False, max_new_tokens=12)
    own = processor.tokenizer.decode(output.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    with served(safety) as server:
        whole, stream = (server.chat(ask(record, max_tokens=12, stream=stream)) for stream in (False, True))
        assert whole.text == said(stream) == own.strip()
        assert whole.json["safety"]["verdicts"] == [output.verdicts[0].to_dict()]
        assert stream.events[0]["safety"] == whole.json["safety"]


def test_a_policys_refusal_is_told_from_an_answer_whatever_stands_around_the_guard():
    model, processor = pocket.load()
    safety = attach_safety(model, processor, adapter=pocket.adapter_dir(), defence=["guard", "ecso"])
    refuse = {"policy": {"rules": {name: {"action": "refuse"} for name in safety.config.taxonomy.types}}}
    with served(safety) as server:
        for kind, finish in (("attack", "content_filter"), ("benign", "stop")):
            reply = server.chat(ask(records(kind)[0], max_tokens=60, safety=refuse)).json
            choice = reply["choices"][0]
            assert choice["finish_reason"] == finish
            assert (choice["message"]["refusal"] is not None) == (finish == "content_filter")


def test_without_a_guard_nothing_is_served():
    from safety_modules.errors import GuardError
    from safety_modules.serving import Access, ServeSettings, Service

    model, processor = pocket.load()
    safety = attach_safety(model, processor, defence="adashield-s")
    with pytest.raises(GuardError, match="no guard"):
        Service(safety, ServeSettings(), Access(), "pocket", {})
