"""`safety-modules serve`: what it refuses before a base is loaded."""

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
    ],
)
def test_mistakes_are_told_before_a_base_is_loaded(words, environment, told):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    assert told in refusal(*words, **environment)
