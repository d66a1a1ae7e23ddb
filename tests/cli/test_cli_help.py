"""What the command line says about itself and while it works: version, examples, interruption, going on."""

import copy
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_commands import words_of
from scripts import parse
from typer.testing import CliRunner

import safety_modules
from safety_modules import pocket
from safety_modules.cli import app, train
from safety_modules.cli.examples import EXAMPLES
from safety_modules.cli.reading import Reading
from safety_modules.io import progress
from safety_modules.io.progress import duration, track


def names(group: Any, before: str = "") -> list[str]:
    found = []
    for name, command in group.commands.items():
        if not hasattr(command, "commands") or command.invoke_without_command:
            found.append(f"{before}{name}")
        if hasattr(command, "commands"):
            found += names(command, f"{before}{name} ")
    return found


def test_the_version_is_printed() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"safety-modules {safety_modules.__version__}\n")


def test_every_command_has_examples() -> None:
    assert set(EXAMPLES) == set(names(typer.main.get_command(app)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_shows_the_examples_and_the_command_line_takes_them(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "100"}).output
    for example in EXAMPLES[name]:
        assert "".join(example.split()) in "".join(shown.split())
        words = words_of(example)
        parse(app, words)
        if not example.startswith("accelerate"):
            assert " ".join(words).startswith(name)


@pytest.mark.parametrize(
    "example",
    ["inspect llava-pocket-safe", "inspect --plan llava-1.5-7b", "path llava-1.5-7b/stage1"],
)
def test_an_example_that_needs_no_data_runs(example: str) -> None:
    assert f"safety-modules {example}" in [one for ones in EXAMPLES.values() for one in ones]
    done = CliRunner().invoke(app, shlex.split(example))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (["train", "--out", "x", "--runs", "runs"], "interrupted; the same command goes on"),
        (["train", "--out", "x"], "interrupted; the same command begins anew"),
    ],
)
def test_ctrl_c_is_one_line_and_exit_code_130(
    told: list[str], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "load_base", interrupted)
    done = CliRunner().invoke(app, told)
    assert done.exit_code == 130
    assert done.stderr.strip() == words


def test_a_disk_that_fills_up_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "argv", ["safety-modules", "data", "check", "x"])
    monkeypatch.setattr(Reading, "options", full)
    with pytest.raises(SystemExit) as stop:
        safety_modules.cli.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("stopped: expected to write, got [Errno 28] No space left on device.")


def test_a_training_says_where_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base: Any, processor: Any, make_image: Any
) -> None:
    from safety_modules.training import trainer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))
    for seed, name in enumerate(("clean/a.png", "illegal/high/b.png")):
        (tmp_path / "mine" / name).parent.mkdir(parents=True)
        make_image(seed).save(tmp_path / "mine" / name)
    Path("recipe.yaml").write_text("stage: 1\nsteps: 4\nbatch_size: 2\nlearning_rate: 1.0e-3\nsave_every: 1\n")
    told = ["train", "--data", "mine", "--recipe", "recipe.yaml", "--out", "out", "--runs", "runs"]
    follow = trainer._Follow.on_step_end

    def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == 3:
            raise KeyboardInterrupt
        return follow(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Follow, "on_step_end", stop)
        done = CliRunner().invoke(app, told)
    assert done.exit_code == 130 and "the same command goes on" in done.stderr
    done = CliRunner().invoke(app, told)
    assert done.exit_code == 0, done.output
    assert "resuming stage I at step 2" in done.output


def test_work_is_announced_with_its_number_and_the_time_it_is_expected_to_take(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    clock = iter([0.0, 2.0, 4.0, 6.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with track("answering", 1200, things="answers") as advance:
        assert "answering: 1,200 answers\n" in capsys.readouterr().out
        for _ in range(3):
            advance(10)
    assert capsys.readouterr().out.count("answering: about 4 min in all, by the first 20") == 1


@pytest.mark.parametrize(("seconds", "words"), [(3, "3 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_a_duration_is_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_signal_ends_a_real_process_with_130(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom safety_modules.cli import main, reading\n"
        "sys.argv = ['safety-modules', 'data', 'check', 'x']\n"
        "def wait(*a):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "reading.Reading.options = wait\nmain()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.getcwd(),
        # However the tests were started: a shell's background processes ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told.strip()) == (130, "interrupted; the same command begins anew")
