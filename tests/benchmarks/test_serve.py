"""benchmarks/serve.py runs, small, and counts what it finds."""

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

import serve
from scripts import invoke


@pytest.mark.slow
def test_it_runs_and_nothing_is_wrong_lost_or_failed(tmp_path):
    small = ["--rounds", "1", "--requests", "40", "--clients", "8", "--size", "16"]
    done = invoke("serve.py", *small, "--json", tmp_path / "serve.json")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "serve.json").read_text())
    assert found["load"] | {"memory": 0} == {"requests": 40, "wrong": 0, "lost": 0, "failed": 0, "memory": 0}
    assert set(found["ratios"]) == {"guarded over off", "batches over one by one", "moderation over tower"}


def test_another_answer_policy_or_verdict_counts_as_wrong():
    class Verdict:
        type, action, level, scores = "privacy", "hint", "high", {"privacy": 5.0}

    judged = {"type": "privacy", "action": "hint", "level": "high", "scores": {"privacy": 5.0}}

    def reply(text="a", policy="p", status=200, **changes):
        body = {
            "choices": [{"message": {"content": text}}],
            "safety": {"policy": policy, "verdicts": [judged | changes]},
        }
        return serve.Reply(status, json.dumps(body).encode())

    own = ("a", Verdict, "p")
    assert serve._right(reply(), own)
    for wrong in (reply(text="b"), reply(policy="q"), reply(type="illegal"), reply(scores={"privacy": 4.0})):
        assert not serve._right(wrong, own)
    assert not serve._right(reply(status=404), own) and not serve._right(reply(), None)
    assert serve._right(reply(status=400), None)
