"""docs/data.md: its examples are data, its commands run on them, and its Python runs as it stands."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from data_samples import lay_out_page
from typer.testing import CliRunner

from safety_modules.cli import app
from safety_modules.records import read_records
from safety_modules.records.check import Finding

pytest.importorskip("imagehash")
datasets = pytest.importorskip("datasets")
PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
FILES = re.findall(r"^`([\w.]+)`:\n\n```\w*\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^safety-modules (data check .*)$", PAGE, re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files and the pictures, folders, shards and dataset it speaks of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    lay_out_page(tmp_path, FILES)
    load, splits = datasets.load_dataset, datasets.get_dataset_split_names

    def load_dataset(name: str, **options: Any) -> Any:
        return load("files" if name == "owner/name" else name, **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda n: splits("files" if n == "owner/name" else n))
    return tmp_path


def test_the_page_shows_files_commands_and_python() -> None:
    assert len(FILES) == 5 and len(COMMANDS) == 7 and len(SNIPPETS) == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_finds_no_fault_in_its_examples(command: str) -> None:
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == 0, done.output
    assert "Ready to train on." in done.output


@pytest.mark.parametrize("name", [name for name, _ in FILES if not name.endswith("yaml")])
def test_an_example_of_the_page_is_read(name: str) -> None:
    assert read_records(name)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_of_the_page_runs(number: int) -> None:
    exec(compile(SNIPPETS[number], f"data.md, snippet {number}", "exec"), {"__name__": "page"})  # noqa: S102


def test_the_table_of_kinds_is_that_of_the_code() -> None:
    kinds = re.findall(r"^\| `([\w-]+)` \| .* \| (?:error|warning) \|$", PAGE, re.MULTILINE)
    assert tuple(kinds) == Finding.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
