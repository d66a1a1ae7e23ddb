"""Moderations and the guardrail: what `classify` says, in their shapes; no language model runs."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from PIL import Image
from serving_cases import data_uri, guarded, picture_part, records

from safety_modules.policy.scores import probability
from safety_modules.policy.verdict import riskiest
from safety_modules.serving.app import GUARDRAIL


def words(text):
    return {"type": "text", "text": text}


def classified(images, question=None, policy=None):
    return [one.to_dict() for one in guarded().classify(images=images, questions=question, policy=policy)]


@pytest.fixture
def no_language_model(monkeypatch):
    def refused(*_args, **_kwargs):
        raise AssertionError("the language model ran")

    monkeypatch.setattr(guarded().backbone.language_model, "forward", refused)


def test_verdicts_are_those_of_classify(server, no_language_model):
    for record in (records("attack")[0], records("benign")[0]):
        for question in (record.question, None):
            parts = [picture_part(record.image), *([words(question)] if question else [])]
            reply = server.moderate(*parts)
            (result,) = reply.json["results"]
            (own,) = classified([record.image], question)
            assert result["safety"]["verdicts"] == [own]
            assert result["flagged"] == own["flagged"]
            assert result["category_scores"] == {type: probability(score) for type, score in own["scores"].items()}
            assert result["x_thresholds"] == {type: probability(cut) for type, cut in own["thresholds"].items()}
            assert result["categories"] == {
                type: score >= own["thresholds"][type] for type, score in own["scores"].items()
            }
            assert result["x_levels"] == own["level_probabilities"]


def test_several_pictures_are_one_thing_to_judge_and_the_riskiest_counts(server):
    images = [records("benign")[0].image, records("attack")[0].image, records("benign")[1].image]
    (result,) = server.moderate(*map(picture_part, images), words("What is this?")).json["results"]
    own = guarded().classify(images=images, questions="What is this?")
    assert [one["image_index"] for one in result["safety"]["verdicts"]] == [0, 1, 2]
    assert result["safety"]["verdicts"] == [one.to_dict() for one in own]
    assert result["safety"]["type"] == riskiest(own).type
    for type, score in result["category_scores"].items():
        assert score == max(probability(one.scores[type]) for one in own)


def test_of_an_animation_the_riskiest_frame_counts(server):
    clean, risky = records("benign")[0].image.convert("RGB"), records("attack")[0].image.convert("RGB")
    buffer = io.BytesIO()
    clean.save(buffer, "PNG", save_all=True, append_images=[risky.resize(clean.size), clean])
    animation = Image.open(io.BytesIO(buffer.getvalue()))
    (result,) = server.moderate(
        picture_part(data_uri(clean, save_all=True, append_images=[risky.resize(clean.size), clean]))
    ).json["results"]
    assert result["safety"]["verdicts"] == classified([animation])
    assert result["safety"]["verdicts"][0]["frames_judged"] == 3


def test_a_type_that_is_switched_off_is_never_flagged_and_has_no_threshold(server):
    attack = records("attack")[0]
    policy = {"rules": {attack.type: {"action": "allow"}}}
    reply = server.post(
        "/v1/moderations",
        {"input": [picture_part(attack.image), words(attack.question)], "safety": {"policy": policy}},
        {"authorization": "Bearer operator-key"},
    )
    (result,) = reply.json["results"]
    assert not result["categories"][attack.type] and attack.type not in result["x_thresholds"]
    assert result["category_scores"][attack.type] > 0.9


def test_words_alone_are_not_called_harmless(server):
    for asked in ("hello", ["hello", "you"], [words("hello")]):
        reply = server.post("/v1/moderations", {"input": asked})
        assert reply.status == 400 and reply.error["code"] == "no_image"


def test_verdicts_at_once_are_each_requests_own(server):
    found = [*records("attack"), *records("benign")]
    with ThreadPoolExecutor(len(found)) as threads:
        replies = list(threads.map(lambda one: server.moderate(picture_part(one.image), words(one.question)), found))
    for record, reply in zip(found, replies, strict=True):
        (own,) = classified([record.image], record.question)
        (judged,) = reply.json["results"][0]["safety"]["verdicts"]
        assert judged["type"] == own["type"] and judged["flagged"] == own["flagged"]
        assert judged["scores"] == pytest.approx(own["scores"], abs=1e-3)
    assert max(server.line(reply)["batch"] for reply in replies) > 1


def guardrail(server, **body):
    return server.post(GUARDRAIL, {"input_type": "request", **body})


def test_the_guardrail_blocks_what_the_policy_would_not_let_pass(server):
    attack, benign = records("attack")[0], records("benign")[0]
    more = {"structured_messages": [{"role": "user", "content": "x"}], "model": "gpt", "litellm_call_id": "1"}
    blocked = guardrail(server, texts=[attack.question], images=[data_uri(attack.image)], **more).json
    assert blocked["action"] == "BLOCKED" and attack.type in blocked["blocked_reason"]
    assert guardrail(server, texts=[benign.question], images=[data_uri(benign.image)]).json == {"action": "NONE"}
    both = [data_uri(benign.image), data_uri(attack.image)]
    assert guardrail(server, texts=[attack.question], images=both).json["action"] == "BLOCKED"
    assert guardrail(server, texts=["hello"], images=None).json == {"action": "NONE"}
    assert server.post(GUARDRAIL, {"input_type": "response", "texts": ["hello"]}).json == {"action": "NONE"}


def test_a_gateways_key_comes_in_a_header_of_its_own(server):
    for key, status in ((server.key, 200), ("other", 401)):
        headers = {"authorization": "", "x-api-key": key}
        assert server.post(GUARDRAIL, {"input_type": "request", "texts": ["hello"]}, headers).status == status


def test_a_guardrail_that_cannot_read_a_picture_lets_nothing_pass(server):
    assert guardrail(server, images=["data:image/png;base64,AAAA"]).status == 400
    assert guardrail(server, images=["https://example.org/a.png"]).status == 400
