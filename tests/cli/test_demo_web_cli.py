"""`safety-modules demo --web`: what it refuses before a base is loaded."""

import pytest
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.cli import app
from safety_modules.cli.demo import NEEDED
from safety_modules.io import optional


@pytest.fixture(autouse=True)
def _no_work(monkeypatch):
    monkeypatch.setattr(pocket, "load", lambda: pytest.fail("work was begun"))


def refusal(*words):
    done = CliRunner().invoke(app, ["demo", *words])
    assert done.exit_code == 1, done.output
    return str(done.exception)


@pytest.mark.parametrize("absent", NEEDED)
def test_without_its_extra_it_says_what_to_install(monkeypatch, absent):
    def missing(name):
        if name == absent:
            raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(optional, "import_module", missing)
    message = refusal("--web")
    assert absent in message and "pip install" in message


@pytest.mark.parametrize(
    "words", [["--model", "folder"], ["--adapter", "folder"], ["--compare", "folder"], ["--port", "80"]]
)
def test_what_is_of_the_page_needs_the_page(words):
    assert f"{words[0]} is of the page" in refusal(*words)


def test_one_demo_at_a_time():
    assert "got both" in refusal("--web", "--pretrained")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--policy", "nowhere.yaml"], "policy not read"),
        (["--adapter", "nowhere"], "nowhere"),
        (["--compare", "nowhere"], "nowhere"),
        (["--model", "llava-hf/llava-1.5-7b-hf"], "no adapter"),
    ],
)
def test_mistakes_are_told_before_a_base_is_loaded(words, told):
    pytest.importorskip("gradio", reason="needs the extra demo: its libraries are in a folder of their own")
    assert told in refusal("--web", *words)
