"""docs/fine-tuning.md: every command of the page runs, or, where it needs a checkpoint nobody ships, one like it."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from new_type import COMMANDS
from scripts import invoke, parse, program
from typer.testing import CliRunner

from safety_modules.cli import app
from safety_modules.paths import recipe_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
WALK, REST = PAGE.split("## The same on LLaVA-1.5-7B")
BLOCK = re.compile(
    r"```python\n(?P<python>.*?)```|^ {4}(?P<command>(?:accelerate|safety-modules) [^\n]*)$", re.S | re.M
)
COMMAND = re.compile(r"^ {4}((?:accelerate|safety-modules|python benchmarks/plan\.py) .*)$", re.MULTILINE)
STAGES = {
    1: "stage: 1\nsteps: 2\nbatch_size: 4\nlearning_rate: 1.0e-3\n",
    2: "stage: 2\nsteps: 2\nbatch_size: 4\nlearning_rate: 1.0e-3\nactivation_checkpointing: true\nanswer_tokens: 3\n",
}


def words_of(command: str) -> list[str]:
    words = shlex.split(command)
    return words[words.index("safety_modules") + 1 if words[0] == "accelerate" else 1 :]


def run(words: list[str]) -> str:
    done = (
        invoke(*words, catch_exceptions=False)
        if words[0].startswith("benchmarks/")
        else CliRunner().invoke(app, words, catch_exceptions=False)
    )
    assert done.exit_code == 0, f"{words}: {done.output}"
    return done.output


@pytest.mark.parametrize("command", COMMAND.findall(PAGE))
def test_a_command_of_the_page_is_one_the_command_line_takes(command):
    words = words_of(command)
    parse(*((program(words[0]), words[1:]) if words[0].startswith("benchmarks/") else (app, words)))
    for option, word in pairwise(words):
        if option == "--recipe":
            recipe_file(word)


def test_the_page_shows_every_step():
    verbs = [" ".join(words_of(command)[:1]) for command in COMMAND.findall(WALK)]
    assert verbs == ["data", "train", "calibrate", "classify"]
    assert "\n    python benchmarks/new_type.py\n" in WALK  # the walk once more, measured


def test_evaluate_new_type_runs_the_commands_of_the_page_as_they_stand_there():
    shown = COMMAND.findall(WALK)
    assert shown[:3] == [f"safety-modules {command}" for command in COMMANDS]


@pytest.mark.slow
def test_the_walk_through_runs_from_pictures_to_a_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in BLOCK.finditer(WALK):
        if block["command"]:
            run(words_of(block["command"]))
        else:
            exec(compile(block["python"], "docs/fine-tuning.md", "exec"), {"__name__": "page"})  # noqa: S102
    assert "allergen" in capsys.readouterr().out  # what the last snippet prints: the new type was found
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["ok"]
    assert report["balance"]["allergen"]["high"] == 100


def test_the_commands_for_the_7b_run_on_a_small_base(tiny_base, processor, make_image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_base.save_pretrained("llava-1.5-7b-hf")
    processor.save_pretrained("llava-1.5-7b-hf")
    for place, (name, seeds) in {"DATA": ("r", range(12)), "HELD_OUT": ("h", range(12, 24))}.items():
        (tmp_path / f"{name}-pictures").mkdir()
        lines = []
        for seed in seeds:
            make_image(seed).save(tmp_path / f"{name}-pictures" / f"{seed}.png")
            type, level = ((1, 3), (6, 0))[seed % 2]
            turns = [{"from": "USER", "value": "<image>\nwhat is this?"}]
            item = {"image": f"{name}-pictures/{seed}.png", "safe_type": type, "safe_level": level}
            lines.append(json.dumps({**item, "conversations": turns}))
        Path(f"{place}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for stage, text in STAGES.items():
        Path(f"stage{stage}.yaml").write_text(text, encoding="utf-8")
    names = {"DATA": "DATA.jsonl", "HELD_OUT": "HELD_OUT.jsonl", "llava-1.5-7b": "llava-1.5-7b-hf"}
    done = []
    for command in COMMAND.findall(REST):
        words = [names.get(word, word) for word in words_of(command)]
        words = [re.sub(r"llava-1.5-7b/stage(\d).*", r"stage\1.yaml", word) for word in words]
        if command.startswith("accelerate") or "calibrate" in words or "llava-1.5-13b" in words:
            continue  # several processes, 299 pictures, a base of its own: tested elsewhere
        if words[0] == "train":  # bitsandbytes is not part of the tests' environment
            words[words.index("--quantize") : words.index("--quantize") + 2] = []
            words[words.index("bfloat16")] = "float32"
        run(words)
        done.append(words[0])
    assert done == ["data", "benchmarks/plan.py", "train"]
    assert (tmp_path / "my-7b" / "adapter_config.json").is_file()
