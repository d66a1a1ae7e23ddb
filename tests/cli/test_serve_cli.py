"""`safety-modules serve`: what it refuses before a base is loaded."""

import os

import pytest
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.cli import app
from safety_modules.io import optional


@pytest.fixture(autouse=True)
def _no_work(monkeypatch):
    monkeypatch.setattr(pocket, "load", lambda: pytest.fail("work was begun"))


def refusal(*words, **environment):
    done = CliRunner().invoke(app, ["serve", *words], env=environment)
    assert done.exit_code == 1
    return str(done.exception)


def test_without_its_extra_it_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(optional, "import_module", missing)
    message = refusal()
    assert "fastapi" in message and "pip install" in message


def test_replicas_without_their_extra_say_what_to_install(monkeypatch):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    real = optional.import_module

    def missing(name):
        if name.startswith("ray"):
            raise ImportError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(optional, "import_module", missing)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # Ray is told what to do there
    message = refusal("--replicas", "2")
    assert "ray" in message and "pip install" in message


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (["--host", "0.0.0.0"], {}, "expected keys"),
        (["--access", "nowhere.yaml"], {}, "keys not read"),
        (["--policy", "nowhere.yaml"], {}, "policy not read"),
        (["--adapter", "nowhere"], {}, "nowhere"),
        (["llava-hf/llava-1.5-7b-hf"], {}, "no adapter"),
        ([], {"SAFETY_MODULES_SERVE_MAX_IMAGES": "many"}, "max_images"),
        ([], {"SAFETY_MODULES_SERVE_PORT": "-1"}, "port"),
        (["--replicas", "0"], {}, "replicas"),
        (["--replicas", "-1"], {}, "replicas"),
        ([], {"SAFETY_MODULES_SERVE_REPLICA_GPUS": "-1"}, "replica_gpus"),
        (["nowhere", "--adapter", "llava-pocket-safe", "--replicas", "2"], {}, "no base model"),
        (["--replicas", "2"], {"RAY_ADDRESS": "ray://head:10001"}, "Ray's client"),
    ],
)
def test_mistakes_are_told_before_a_base_is_loaded(words, environment, told):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    assert told in refusal(*words, **environment)
