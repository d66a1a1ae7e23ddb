"""Every command of README.md and docs, from an installed wheel, in an empty folder.

A page's commands run in their order on pocket, with smaller limits (LIMITS); one that speaks of a model nobody ships
must come as far as to say that this model is missing. Python of the pages in WALKS runs between them. A command that
fits neither fails: a page cannot show what does not work.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from doc_commands import blocks, commands, words_of
from scripts import parse, program

from safety_modules.cli import app
from safety_modules.paths import shipped_path

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
WALKS = ("README.md", "fine-tuning.md")
OWN = re.compile(r"(accelerate|safety-modules)\b")
OURS = [(name, command) for name, text in PAGES.items() for command in commands(text)]
ABSENT = re.compile(r"llava-1\.5-(7|13)b-hf|llava-hf/|hf://|owner/name")
"""A model or data set that is not on this disk."""
MISSING = re.compile(
    r"no base model: expected a folder with config\.json|hf download|Couldn't reach .* on the Hub|"
    r"not an adapter: expected a folder, got nothing there"
)
"""It, or the adapter that an earlier command would have made for it."""
SERVES = re.compile(r"safety-modules (serve|demo --web)\b")
"""Runs until it is stopped."""
FROM_A_CLONE = re.compile(r"=S/seed")
"""Weights that a script of a clone makes (`comparison.py train --out S`): see tests/benchmarks/test_scripts.py."""
DRIVER = Path(__file__).with_name("wheel_driver.py")

LIMITS: dict[str, dict[str, str | None]] = {
    "train": {"--steps": "2"},
    "evaluate": {"--limit": "1", "--part": "attack/*"},
    "evaluate pocket": {"--samples": "20"},
}
"""Options that make a command of a page small; they stand for what the page says of the same option."""


def _walked(command: str) -> bool:
    return bool(OWN.match(command)) and not (FROM_A_CLONE.search(command) or SERVES.match(command))


def limited(words: list[str]) -> list[str]:
    """The words with the limits of their command, in place of the same options."""
    if {"--remove-type", "--merge", "--words"} & {*words}:
        return words
    name = words[0] if words[1].startswith("-") or words[0] != "evaluate" else " ".join(words[:2])
    limits = LIMITS.get(name, {})
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in limits:
            skip = True
        else:
            kept.append(word)
    return [*kept, *(part for option, value in limits.items() if value is not None for part in (option, value))]


@pytest.mark.parametrize(("page", "command"), OURS)
def test_a_command_of_a_page_is_one_there_is(page: str, command: str) -> None:
    words = shlex.split(re.sub(r"\$\(safety-modules path ([\w./-]+)\)", r"@\1", command), comments=True)
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
    starts = words[0]
    if starts in ("safety-modules", "accelerate"):
        parse(app, words_of(command))
        for word in words:
            if word.startswith("@"):
                shipped_path(word[1:])
    elif starts == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets
    elif starts == "python" and words[1] != "-m":
        assert (ROOT / words[1]).is_file()
        script = program(words[1])
        if script is not None:
            parse(script, words[2:])
            return
        text = "".join(
            path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")
        )  # they share some
        for option in words[2:]:
            assert not option.startswith("--") or f'"{option}"' in text, option
    elif starts == "pip":
        for word in words:
            extras = re.fullmatch(r"\.\[([a-z,]+)\]", word)
            for extra in extras[1].split(",") if extras else ():
                assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), extra
            assert not word.startswith("requirements/") or (ROOT / word).is_file()
    else:
        assert starts in ("lmms-eval", "hf", "open", "export", "cat", "cp", "git"), command


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, without anything else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = folder.glob("safety_modules-*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, timeout=300)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("page", dict.fromkeys(name for name, command in OURS if _walked(command)))
def test_the_commands_of_a_page_run_from_an_installed_wheel(
    page: str, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[dict[str, Any]] = []
    trained = set[str | None]()
    for kind, body in dict.fromkeys(blocks(PAGES[page])):  # a page may show a command again where it explains it
        if kind == "python":
            tasks += [{"python": body}] if page in WALKS else []
        elif re.match(r"(cat|cp)\b", body):
            tasks.append({"shell": body})
        elif _walked(body):
            words = limited(words_of(body))
            out = words[words.index("--out") + 1] if words[0] == "train" and "--out" in words else None
            if out is not None and out in trained:  # one command for pocket and one for a 7B, and the same result
                words.append("--overwrite")
            trained.add(out)
            tasks.append({"words": words, "command": body})
    files = re.findall(r"^`([\w.]+)`:\n\n```\w*\n(.*?)```", PAGES[page], re.DOTALL | re.MULTILINE)
    if files:
        tasks.insert(0, {"files": files})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), str(DRIVER.parents[1])]))
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, str(DRIVER), json.dumps(tasks), str(tmp_path / "results.json")],
        cwd=tmp_path / "empty",
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tasks = [task for task in tasks if "files" not in task]
    results = json.loads((tmp_path / "results.json").read_text())
    assert Path(results["package"]).is_relative_to(installed)
    wrong = []
    for task, told in zip(tasks, results["tasks"], strict=True):
        if ABSENT.search(task.get("command", "")) and not told["ok"]:
            if not MISSING.search(told["error"]):
                wrong.append(f"{task['command']}\n  expected to miss the model, got: {told['error'][-1500:]}")
        elif not told["ok"]:
            wrong.append(f"{[*task.values()][-1]}\n  {told['error'][-1500:]}")
    assert not wrong, "\n\n".join(wrong)
