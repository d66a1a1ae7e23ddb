"""Limits, keys, and what a caller may ask for."""

import hashlib
from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from pydantic import ValidationError
from serving_cases import guarded

from safety_modules import pocket
from safety_modules.attach import attach_safety
from safety_modules.config import ViewsSettings
from safety_modules.defences.guard.views import KEY
from safety_modules.errors import ConfigError
from safety_modules.serving.access import Access, Caller, Choices, only_reported
from safety_modules.serving.errors import RequestRefused
from safety_modules.serving.schemas import SafetyAsked
from safety_modules.serving.served import Served
from safety_modules.serving.settings import PREFIX, ServeSettings

NOBODY, ALL = Caller("web", frozenset()), Caller("ops", frozenset({"off", "report", "looser"}))


def sha(key):
    return hashlib.sha256(key.encode()).hexdigest()


def keys(*given):
    return Access.model_validate({"keys": [{"name": f"k{n}", "sha256": sha(key)} for n, key in enumerate(given)]})


def test_settings_come_from_options_and_from_the_environment(monkeypatch):
    monkeypatch.setenv(f"{PREFIX}MAX_IMAGES", "3")
    monkeypatch.setenv(f"{PREFIX}IMAGE_HOSTS", "a.example, B.example")
    found = ServeSettings(port=1)
    assert (found.max_images, found.port, found.image_hosts) == (3, 1, {"a.example", "b.example"})
    monkeypatch.setenv(f"{PREFIX}MAX_IMAGES", "none")
    with pytest.raises(ValidationError):
        ServeSettings()


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.org"])
def test_a_server_that_others_can_reach_needs_keys(host):
    with pytest.raises(ConfigError, match="expected keys"):
        ServeSettings(host=host).check_reachable(False)
    ServeSettings(host=host).check_reachable(True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_this_machine_alone_needs_none(host):
    ServeSettings(host=host).check_reachable(False)


def test_a_key_is_known_by_its_digest():
    access = keys("first", "second")
    assert access.caller("Bearer second").name == "k1"
    assert access.caller("bearer  first").name == "k0"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer third", "Basic first", "first", f"Bearer {sha('first')}", "Bearer \udcff"],
)
def test_another_key_or_none_is_refused(header):
    with pytest.raises(RequestRefused) as error:
        keys("first").caller(header)
    assert error.value.status == 401
    assert "third" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "keys: [{name: a, sha256: abc}]",
        "keys: [{name: a, sha256: '" + "0" * 64 + "', may: [everything]}]",
        "keys: [{name: a, key: secret}]",
        "keys: [{name: a, sha256: '" + "0" * 64 + "'}, {name: b, sha256: '" + "0" * 64 + "'}]",
        "nothing: 1",
        "- a",
        "{",
    ],
)
def test_a_file_of_keys_that_says_something_else_is_refused(tmp_path, text):
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(ConfigError):
        Access.from_yaml(tmp_path / "keys.yaml")


def test_a_file_of_keys_is_read(tmp_path):
    (tmp_path / "keys.yaml").write_text(f"keys:\n  - name: ops\n    sha256: {sha('k')}\n    may: ['off', report]\n")
    assert Access.from_yaml(tmp_path / "keys.yaml").caller("Bearer k").may == {"off", "report"}


def chosen(caller, **asked):
    return Choices(guarded()).chosen(SafetyAsked(**asked), caller)


@pytest.mark.parametrize(
    "asked",
    [
        {"mode": "off"},
        {"mode": "report"},
        {"policy": {"rules": {"privacy": {"action": "allow"}}}},
        {"policy": {"rules": {"privacy": {"threshold": 9}}}},
        {"policy": {"rules": {"privacy": {"wording": {"high": "Go on."}}}}},
        {"policy": {"level_threshold": 1}},
    ],
)
def test_doing_less_is_for_those_whom_the_operator_names(asked):
    with pytest.raises(RequestRefused, match="within the operator's policy") as error:
        chosen(NOBODY, **asked)
    assert error.value.status == 403
    assert chosen(ALL, **asked).mode == asked.get("mode", "enforce")


def test_doing_more_is_for_everybody():
    found = chosen(NOBODY, policy={"rules": {"privacy": {"action": "refuse", "threshold": -3}}})
    assert found.policy.rules["privacy"].action == "refuse"
    assert found.digest == found.policy.digest != Choices(guarded()).operators.digest


def test_a_policy_that_is_none_is_refused_whoever_asks():
    with pytest.raises(RequestRefused) as error:
        chosen(ALL, policy={"rules": {"nothing": {}}})
    assert error.value.status == 400


def test_a_reported_policy_changes_no_answer_and_fires_as_before():
    policy = guarded().policy.changed({"rules": {"privacy": {"action": "refuse"}, "illegal": {"action": "allow"}}})
    reported = only_reported(policy)
    assert {rule.action for rule in reported.rules.values()} == {"log", "allow"}
    taxonomy = guarded().config.taxonomy
    assert reported.limits(taxonomy, {}) == policy.limits(taxonomy, {})


def test_random_views_are_drawn_with_a_secret_that_all_replicas_share_or_the_operators(tmp_path, monkeypatch):
    safety = attach_safety(*pocket.load(), adapter=pocket.adapter_dir())
    safety.modules.judge_by(ViewsSettings(count=2))
    folder = str(safety.save_pretrained(tmp_path / "voting"))

    def key(served):
        return served.load().modules.views.key

    monkeypatch.delenv(KEY, raising=False)
    first, other = (Served.read(ServeSettings(), adapter=folder) for _ in range(2))
    assert len(key(first)) >= 16 and key(first) == key(replace(first, name="a replica")) != key(other)
    monkeypatch.setenv(KEY, "the operator's")
    assert key(Served.read(ServeSettings(), adapter=folder)) == b"the operator's"
