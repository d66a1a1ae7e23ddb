"""Chat completions in a real server: answers, verdicts, modes, batches."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from serving_cases import NAME, alone, ask, guarded, records, turn

OPERATOR = {"authorization": "Bearer operator-key"}


def test_an_answer_is_that_of_the_handle_and_carries_its_verdict(server):
    for record in (*records("attack")[:2], *records("benign")[:2]):
        reply, own = server.chat(ask(record)), alone(record)
        assert reply.status == 200 and reply.text == own.text
        safety = reply.json["safety"]
        assert safety["verdicts"] == [one.to_dict() for one in own.verdicts]
        assert (safety["type"], safety["action"], safety["rule"]) == (
            own.verdict.type,
            own.verdict.action,
            own.verdict.rule,
        )
        assert safety["mode"] == "enforce" and safety["policy"] == guarded().policy.digest
        told = json.loads(reply.headers["x-safety"])
        assert told == {name: value for name, value in safety.items() if name != "verdicts"}


def test_usage_counts_picture_tokens_and_the_end_of_the_answer(server):
    reply = server.chat(ask(records("benign")[0])).json
    used = reply["usage"]
    assert used["prompt_tokens"] > guarded().backbone.sizes.num_patches
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    short = server.chat(ask(records("benign")[0], max_tokens=2)).json
    assert short["usage"]["completion_tokens"] == 2 and short["choices"][0]["finish_reason"] == "length"
    assert reply["choices"][0]["message"]["content"].startswith(short["choices"][0]["message"]["content"])


def test_a_refusal_by_policy_is_a_content_filters(server):
    attack = records("attack")[0]
    asked = ask(attack, safety={"policy": {"rules": {attack.type: {"action": "refuse"}}}})
    reply = server.chat(asked).json
    choice = reply["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert (
        choice["message"]["refusal"]
        == choice["message"]["content"]
        == guarded().policy.refusal_text(attack.type, "high")
    )
    assert reply["safety"]["action"] == "refuse" and attack.type in reply["safety"]["rule"]
    plain = server.chat(ask(records("benign")[0], safety=asked["safety"])).json
    assert plain["choices"][0]["finish_reason"] == "stop"
    assert plain["safety"]["policy"] == reply["safety"]["policy"] != guarded().policy.digest


def test_off_is_the_bases_own_answer_unjudged_and_report_the_same_judged(server):
    attack = records("attack")[0]
    base = alone(attack, safety=False).text
    off = server.chat(ask(attack, safety={"mode": "off"}), headers=OPERATOR).json
    report = server.chat(ask(attack, safety={"mode": "report"}), headers=OPERATOR).json
    for reply in (off, report):
        assert reply["choices"][0]["message"]["content"] == base
        assert reply["choices"][0]["finish_reason"] != "content_filter"
    assert off["safety"]["verdicts"] == [] and off["safety"]["mode"] == "off" and off["safety"]["flagged"] is None
    assert report["safety"]["flagged"] and report["safety"]["action"] == "log"
    assert base != alone(attack).text


def test_doing_less_is_refused_to_those_who_may_not(server):
    for safety in ({"mode": "off"}, {"mode": "report"}, {"policy": {"rules": {"privacy": {"action": "allow"}}}}):
        reply = server.chat(ask(records("attack")[0], safety=safety))
        assert reply.status == 403 and reply.error["code"] == "not_allowed" and "web may not" in reply.error["message"]


def test_words_alone_are_answered_and_said_to_be_unjudged(server):
    reply = server.chat({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8})
    assert reply.status == 200 and reply.json["safety"]["judged"] == 0 and reply.json["safety"]["action"] is None


def test_a_conversation_with_several_pictures_is_judged_picture_by_picture(server):
    first, second = records("benign")[:2]
    attack = records("attack")[0]
    body = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            turn(first.question, first.image),
            {"role": "assistant", "content": "Yes."},
            turn(attack.question, second.image, attack.image),
        ],
        "max_tokens": 12,
    }
    reply, own = server.chat(body), alone(body)
    assert reply.text == own.text
    assert reply.json["safety"]["verdicts"] == [one.to_dict() for one in own.verdicts]
    assert len(own.verdicts) == 3


def test_stop_words_end_an_answer_and_are_left_out(server):
    record = records("attack")[0]
    whole = server.chat(ask(record)).text
    stop = whole.split()[2]
    reply = server.chat(ask(record, stop=[stop])).json["choices"][0]
    assert reply["finish_reason"] == "stop" and reply["message"]["content"] == whole.partition(stop)[0].strip()


def test_a_seed_draws_the_same_answer_again_and_another_one_another(server):
    record = records("benign")[1]
    drawn = [
        server.chat(ask(record, temperature=2.0, top_p=1.0, seed=seed, max_tokens=16)).text for seed in (1, 1, 2, 3, 4)
    ]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


def test_requests_at_once_share_calls_and_get_the_answers_they_get_alone(server):
    """Equal to the same call alone, whatever is beside it: clean and risky rows, refusals, streams, limits."""
    refuse = {"policy": {"rules": {type: {"action": "refuse"} for type in guarded().config.taxonomy.types}}}
    asked = [
        ask(record, max_tokens=20 + number % 3, safety=refuse if number % 4 == 3 else None, stream=number % 2 == 0)
        for number, record in enumerate([*records("attack"), *records("benign")])
    ]
    expected = []
    for body in asked:
        own = guarded().policy.changed(refuse["policy"]) if body["safety"] else None
        expected.append(alone(body, policy=own).text)
    with ThreadPoolExecutor(len(asked)) as threads:
        replies = list(threads.map(server.chat, asked))
    for body, reply, text in zip(asked, replies, expected, strict=True):
        assert reply.status == 200
        said = (
            "".join(one["choices"][0]["delta"].get("content", "") for one in reply.events[:-1])
            if body["stream"]
            else reply.text
        )
        assert said == text
    assert max(server.line(reply)["batch"] for reply in replies) > 1


def test_one_request_is_one_line_without_words_and_pictures(server):
    record = records("attack")[0]
    reply = server.chat(ask(record))
    line = server.line(reply)
    assert line["status"] == 200 and line["key"] == "web" and line["safety_type"] == record.type
    assert line["pictures"] == 1 and line["prompt_tokens"] and line["answer_tokens"] and line["seconds"] > 0
    text = json.dumps(line)
    assert record.question not in text and reply.text not in text and "base64" not in text
    refused = server.line(server.chat({"messages": [{"role": "user", "content": {"secret words": 1}}]}))
    assert refused["status"] == 400 and refused["error"] == "invalid_body" and "secret" not in json.dumps(refused)


def test_what_happened_is_counted(server):
    before = server.numbers()
    server.chat(ask(records("attack")[0]))
    server.chat(b"{")
    after = server.numbers()
    for status in ("200", "400"):
        name = f'safety_modules_requests_total{{route="/v1/chat/completions",status="{status}"}}'
        assert after[name] == before.get(name, 0) + 1
    name = f'safety_modules_pictures_total{{action="hint",type="{records("attack")[0].type}"}}'
    assert after[name] == before.get(name, 0) + 1


def test_health_says_what_is_served_without_a_key(server):
    found = server.get("/healthz", {"authorization": ""}).json
    assert found["status"] == "ok" and found["policy"] == guarded().policy.digest
    assert found["base"] == guarded().backbone.fingerprint() and found["adapter"]["name"] == "llava-pocket-safe"
    assert server.get("/v1/models").json["data"][0]["id"] == NAME


@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
def test_everything_else_needs_the_key(server, path):
    reply = server.get(path, {"authorization": "Bearer other"})
    assert reply.status == 401 and reply.error["code"] == "invalid_api_key"
