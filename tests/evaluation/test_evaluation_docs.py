"""docs/evaluation.md says what the code does."""

import inspect
import json
import re
from pathlib import Path

import pytest

from safety_modules.cli import evaluate as command
from safety_modules.evaluation.harness import run as harness

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
(SNIPPET,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def column(heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(?:--)?([\w.-]+)", cell)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's Python was run as it stands."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(SNIPPET, "evaluation.md", "exec"), {"__name__": "page"})  # noqa: S102 (our own page)
    return folder / "runs" / "first"


def test_every_key_of_the_report_is_explained(folder: Path) -> None:
    assert column("report.json") == set(json.loads((folder / "report.json").read_text()))


def test_every_file_of_a_run_is_listed(folder: Path) -> None:
    named = (
        PAGE.partition("## The folder of a run")[2].partition("**Interrupted?**")[0].replace("JUDGE", "string_start")
    )
    for path in folder.iterdir():
        assert f"`{path.name}`" in named


def test_every_option_of_the_command_is_explained() -> None:
    options = {name.replace("_", "-") for name in inspect.signature(command.evaluate).parameters} - {"context"}
    explained = set(re.findall(r"`--([a-z-]+)", PAGE.partition("## The folder")[0]))
    assert explained == options


def test_the_defaults_on_the_page_are_those_of_the_code() -> None:
    settings = harness.RunSettings()
    assert f"| {settings.batch_size}, {settings.max_new_tokens} |" in PAGE
    assert f"| {settings.max_judge_errors} |" in PAGE
    assert f"| `{command.DEFAULT_JUDGE}` |" in PAGE
