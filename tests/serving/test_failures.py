"""A request that cannot be answered spoils none of those it shares a call with, and tells nothing of the server."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from serving_cases import alone, ask, records, served, turn

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.errors import PromptError

BAD = "football football football"


@pytest.fixture
def failing(monkeypatch):
    """Calls with a certain prompt among theirs fail; gives the sizes of all calls, and what they fail with."""
    generate, calls = SafetyAttachment.generate, {"sizes": [], "error": PromptError("no place for the hint.")}

    def guarded(self, **options):
        calls["sizes"].append(len(options["input_ids"]))
        tokenizer = self.backbone.processor.tokenizer
        if any(BAD in tokenizer.decode(row) for row in options["input_ids"]):
            raise calls["error"]
        return generate(self, **options)

    monkeypatch.setattr(SafetyAttachment, "generate", guarded)
    return calls


@pytest.mark.parametrize(
    ("error", "status"), [(PromptError("no place for the hint."), 400), (RuntimeError("/secret/path"), 500)]
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_others_of_its_call_are_answered_as_if_it_were_not_there(failing, error, status, stream):
    failing["error"] = error
    good = [ask(record, max_tokens=8) for record in (*records("attack")[:2], records("benign")[0])]
    expected = [alone(body).text for body in good]
    bad = {"messages": [turn(BAD, records("benign")[0].image)], "max_tokens": 8, "stream": stream}
    failing["sizes"].clear()
    with served(batch_wait=1.0) as server, ThreadPoolExecutor(4) as threads:
        replies = [threads.submit(server.chat, body) for body in (bad, *good)]
        found = [reply.result() for reply in replies]
        assert server.numbers()["safety_modules_requests_waiting"] == 1
    assert [reply.text for reply in found[1:]] == expected
    assert found[0].status == status and "secret" not in found[0].error["message"]
    assert max(failing["sizes"]) > 1 and failing["sizes"].count(1) >= 2


def test_a_server_that_is_stopped_answers_what_it_has_begun():
    body = ask(records("benign")[0], max_tokens=8)
    with ThreadPoolExecutor(1) as threads:
        with served() as server:
            reply = threads.submit(server.chat, body)
            while server.service.metrics.waiting._value.get() < 1:
                time.sleep(0.001)
        assert reply.result().text == alone(body).text
