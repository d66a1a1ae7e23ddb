"""Runs a script of benchmarks/ by its words, such as `head.py --samples 10`, as tests run the package's commands."""

import importlib
from typing import Any

import typer
from click.testing import Result
from typer.testing import CliRunner


def program(script: str) -> typer.Typer | None:
    """The command line of a script, where it has one of typer's."""
    return getattr(importlib.import_module(script.removeprefix("benchmarks/").removesuffix(".py")), "app", None)


def invoke(*words: Any, **options: Any) -> Result:
    """What the script said and how it ended."""
    script, *rest = map(str, words)
    app = program(script)
    assert app is not None
    return CliRunner().invoke(app, rest, **options)


def parse(app: typer.Typer, words: list[str]) -> None:
    """Refuse words that a command line does not take; nothing is run."""
    group: Any = typer.main.get_command(app)
    name = "program"
    while hasattr(group, "get_command") and not (words and words[0].startswith("-")):
        group, name, words = group.get_command(None, words[0]), words[0], words[1:]
        assert group is not None, f"no command {name}"
    group.make_context(name, words)
