"""docs/audit.md: its commands are the command line's, its examples are read, its tables name what there is."""

import json
import re
from importlib import resources
from pathlib import Path

import pytest
from audit_samples import verdict, write_audit

from safety_modules.audit.review_marks import Mark, Marks

pytest.importorskip("pyarrow")
PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^safety-modules (.*)$", PAGE, re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_shows_commands_and_python() -> None:
    assert len(COMMANDS) == 8 and len(SNIPPETS) == 1


def test_the_example_of_marks_is_read() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (mark,) = Marks.model_validate_json(text).marks
    assert json.loads(text)["marks"][0].keys() == Mark.model_fields.keys()
    assert mark.type == "privacy"


def test_the_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    write_audit(tmp_path / "audits" / "train", [verdict(0, "d.jsonl:1", type="illegal"), verdict(1, "d.jsonl:2")])
    exec(compile(SNIPPETS[0], "audit.md", "exec"), {"__name__": "page"})  # noqa: S102


def test_every_column_of_an_audit_is_named_on_the_page(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = write_audit(tmp_path, [verdict(0, "d.jsonl:1", type="illegal")])
    for file in ("verdicts.parquet", "flagged.parquet"):
        for name in pq.read_schema(out / file).names:
            shown = "p_" if name.startswith("p_") else name
            shown = "level_" if name.startswith("level_") else shown
            assert f"`{shown}" in PAGE, name


def test_the_keys_on_the_page_are_those_of_the_report() -> None:
    script = (resources.files("safety_modules.audit") / "templates" / "page.js").read_text(encoding="utf-8")
    keys = re.findall(r'name === "([a-z])"', script)
    table = PAGE[PAGE.index("| key |") : PAGE.index("Marks stay in the browser")]
    assert sorted(set(keys)) == sorted(key.lower() for key in re.findall(r"`([A-Z])`", table))
