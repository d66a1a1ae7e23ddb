"""Fuzzed requests, and many different ones at once: no crash, no hang, nobody hears of another's verdict."""

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from serving_cases import NAME, alone, ask, data_uri, guarded, picture_part, records, served

PHASES = [Phase.explicit, Phase.generate]  # no shrinking: each example is a request
fuzzed = {
    "deadline": None,
    "phases": PHASES,
    "suppress_health_check": [*HealthCheck],
}
PATHS = ("/v1/chat/completions", "/v1/moderations", "/beta/litellm_basic_guardrail_api")
PICTURE = data_uri(Image.linear_gradient("L").resize((40, 30)).convert("RGB"))

words = st.text(max_size=20) | st.sampled_from(
    ["", "<image>", "USER:", "ASSISTANT: Sure", "</s>", "\ud800", "\0", "a" * 3000, "data:", "🔪", "{reason}"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words, lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(words, inner, max_size=3), max_leaves=6,
)  # fmt: skip
addresses = words | st.sampled_from([PICTURE, PICTURE[:-7], PICTURE[:60], "http://169.254.169.254/", "file:///etc"])
parts = st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": addresses})})
parts |= st.fixed_dictionaries({"type": st.just("text"), "text": words})
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "user", "user", "system", "assistant", "tool"]),
        "content": words | st.lists(parts, max_size=3) | values,
    }
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "rules": st.dictionaries(
            st.sampled_from(["privacy", "illegal", "nothing"]),
            st.fixed_dictionaries(
                {}, optional={"action": st.sampled_from(["allow", "hint", "refuse", "x"]), "threshold": values}
            ),
            max_size=2,
        ),
        "level_threshold": values,
    },
)
options = {
    "model": st.sampled_from([NAME, "gpt-4"]) | values,
    "max_tokens": st.integers(-1, 5) | values,
    "temperature": st.sampled_from([0, 0.5, 1]) | values,
    "top_p": st.sampled_from([0.5, 1]) | values,
    "seed": st.integers(-1, 5) | values,
    "stop": st.lists(words, max_size=3) | values,
    "stream": st.booleans() | values,
    "safety": st.fixed_dictionaries(
        {}, optional={"mode": st.sampled_from(["off", "report", "enforce"]), "policy": policies | values}
    )
    | values,
    "other": values,
}
some = st.lists(st.sampled_from([*options]), max_size=3, unique=True)
chats = some.flatmap(
    lambda names: st.fixed_dictionaries(
        {"messages": st.lists(messages, max_size=3) | values, "max_tokens": st.just(3)}
        | {name: options[name] for name in names}
    )
)
judged = st.fixed_dictionaries({"input": st.lists(parts, max_size=3) | words | values}, optional={"safety": values})
checked = st.fixed_dictionaries(
    {"input_type": st.sampled_from(["request", "response", ""])},
    optional={"texts": st.lists(words, max_size=2) | values, "images": st.lists(addresses, max_size=2) | values},
)
bodies = (
    st.tuples(st.just(PATHS[0]), chats) | st.tuples(st.just(PATHS[1]), judged) | st.tuples(st.just(PATHS[2]), checked)
)
raws = st.tuples(st.sampled_from(PATHS), st.binary(max_size=60))
headers = st.dictionaries(
    st.sampled_from(["x-request-id", "content-type", "content-encoding", "authorization", "x-forwarded-for", "accept"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
    max_size=2,
)


@pytest.fixture(scope="module")
def strict():
    with served(max_tokens=4, log=False) as running:
        yield running


def check(server, path, raw, given_headers):
    """An answer in one of the shapes there are, in time."""
    reply = server.post(path, raw, {"content-type": "application/json"} | given_headers, timeout=120)
    assert reply.status == 200 or 400 <= reply.status < 500, (reply.status, raw)
    if reply.status != 200:
        assert reply.error["message"] and "\n" not in reply.error["message"] and len(reply.raw) < 4000
    elif reply.headers["content-type"].startswith("application/json"):
        assert "error" not in reply.json
    else:
        assert reply.events[-1] == "[DONE]"


def encoded(body):
    return json.dumps(body).encode("utf-8", "surrogatepass")


def few(strict, asked, given_headers):
    path, body = asked
    check(strict, path, body if isinstance(body, bytes) else encoded(body), given_headers)


both = given(asked=bodies | raws, given_headers=headers | st.just({}))


@both
@settings(max_examples=250, **fuzzed)
def test_fuzzed_requests_are_answered_or_refused(strict, asked, given_headers):
    few(strict, asked, given_headers)


@pytest.mark.slow
@both
@settings(max_examples=1000, **fuzzed)
def test_a_thousand_fuzzed_requests_are_answered_or_refused(strict, asked, given_headers):
    few(strict, asked, given_headers)


def test_afterwards_everything_is_as_before(strict):
    """Runs behind the fuzzed ones: no place in the queue is lost, and answers are what they were."""
    assert strict.numbers()["safety_modules_requests_waiting"] == 1
    for record in (records("attack")[0], records("benign")[0]):
        assert strict.chat(ask(record, max_tokens=4)).text == alone(ask(record, max_tokens=4)).text


class Load:
    """Requests of all kinds, and what each has to be answered: known before, from calls of their own.

    Every request has a policy, a picture and a question that together tell it from all others of its kind, so that a
    verdict or an answer that belongs to another one is seen.
    """

    def __init__(self, seed=0):
        self.draw = random.Random(seed)
        self.records = [*records("attack"), *records("benign")]
        self.policies = [
            None,
            *({"rules": {type: {"action": "refuse"}}} for type in guarded().config.taxonomy.types[:3]),
            {"level_threshold": 0.2},
        ]
        self.expected = {}

    def own(self, place, choice):
        """Text and verdict of a record under a policy, alone."""
        if (place, choice) not in self.expected:
            policy = self.policies[choice]
            policy = None if policy is None else guarded().policy.changed(policy)
            self.expected[place, choice] = alone(ask(self.records[place], max_tokens=16), policy=policy)
        return self.expected[place, choice]

    def prepare(self):
        for place in range(len(self.records)):
            for choice in range(len(self.policies)):
                self.own(place, choice)

    def send(self, server, number, kind, place, choice):
        """What is wrong with the answer to one request; None where nothing is."""
        if kind == "malformed":
            reply = server.chat([b"{", b'{"messages": 1}', encoded({"messages": [], "n": number})][number % 3])
            return None if reply.status == 400 else f"status {reply.status}"
        record, own = self.records[place], self.own(place, choice)
        safety = None if choice == 0 else {"policy": self.policies[choice]}
        if kind == "moderation":
            parts = [picture_part(record.image), {"type": "text", "text": record.question}]
            reply = server.moderate(*parts, safety=safety)
            if reply.status != 200:
                return f"status {reply.status}"
            found = reply.json["results"][0]["safety"]
        else:
            reply = server.chat(ask(record, max_tokens=16, safety=safety, stream=kind == "stream"))
            if reply.status != 200:
                return f"status {reply.status}"
            if kind == "stream":
                events = reply.events
                text = "".join(one["choices"][0]["delta"].get("content", "") for one in events[:-1])
                found = events[0]["safety"]
            else:
                text, found = reply.text, reply.json["safety"]
            if text != own.text:
                return f"text {text!r}, alone {own.text!r}"
        digest = (guarded().policy if choice == 0 else guarded().policy.changed(self.policies[choice])).digest
        if found["policy"] != digest:
            return "another request's policy"
        (verdict,) = found["verdicts"]
        same = all(abs(verdict["scores"][type] - score) < 1e-2 for type, score in own.verdict.scores.items())
        if not same or (verdict["type"], verdict["action"]) != (own.verdict.type, own.verdict.action):
            return "another request's verdict"
        return None

    def run(self, server, count, clients):
        """Faults of so many requests, by so many clients at once."""
        kinds = self.draw.choices(["chat", "stream", "moderation", "malformed"], [60, 20, 15, 5], k=count)
        asked = [
            (number, kind, self.draw.randrange(len(self.records)), self.draw.randrange(len(self.policies)))
            for number, kind in enumerate(kinds)
        ]
        with ThreadPoolExecutor(clients) as threads:
            found = list(threads.map(lambda one: self.send(server, *one), asked))
        assert len(found) == count
        return [fault for fault in found if fault is not None]


@pytest.fixture(scope="module")
def load():
    one = Load()
    one.prepare()
    return one


def test_a_mixed_load_is_answered_as_each_request_alone(strict_load, load):
    assert load.run(strict_load, 120, clients=12) == []
    sizes = strict_load.numbers()
    assert sizes["safety_modules_batch_size_sum"] > sizes["safety_modules_batch_size_count"]


@pytest.mark.slow
def test_a_mixed_load_of_ten_thousand_requests(strict_load, load):
    assert load.run(strict_load, 10_000, clients=32) == []


@pytest.fixture(scope="module")
def strict_load():
    with served() as running:
        yield running


def test_calls_of_ones_own_beside_the_server_do_not_disturb_it(strict_load, load):
    """The same model is used in this process while requests are answered."""
    over, faults = threading.Event(), []

    def own_calls():
        record = records("attack")[0]
        wanted = alone(record).text
        while not over.is_set():
            if alone(record).text != wanted:
                faults.append("own")
            time.sleep(0.01)

    thread = threading.Thread(target=own_calls)
    thread.start()
    try:
        assert load.run(strict_load, 16, clients=8) == []
    finally:
        over.set()
        thread.join()
    assert faults == []
