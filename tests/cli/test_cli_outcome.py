"""`train`: a finished adapter is replaced only when asked, and a finished training is never lost."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.adapter import read_adapter
from safety_modules.cli import app
from safety_modules.cli.recipes import read_recipes
from safety_modules.errors import AdapterError, ConfigError, DataError
from safety_modules.io import places

RECIPE = "stage: {}\nsteps: 2\nbatch_size: 2\nlearning_rate: 1.0e-3\n"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base: Any, processor: Any) -> Path:
    """The tiny base stands in for pocket; in the working folder: labelled data, and a recipe of two steps a stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))
    lines = []
    for number, (type, level) in enumerate([(6, 0), (1, 3), (6, 0), (1, 2)]):
        Image.effect_noise((28, 28), 20 + 20 * number).save(f"{number}.png")
        turns = [{"from": "USER", "value": "<image>\nwhat?"}, {"from": "ASSISTANT", "value": "a cup"}]
        lines.append({"image": f"{number}.png", "safe_type": type, "safe_level": level, "conversations": turns})
    Path("data.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    for stage in (1, 2):
        Path(f"stage{stage}.yaml").write_text(RECIPE.format(stage), encoding="utf-8")
    for name in ("clean", "allergen/high", "../benign/clean"):
        for number in range(3):
            path = Path("mine") / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((28, 28), 90).convert("RGB").save(path)
    return tmp_path


TRAIN = ("train", "--data", "data.jsonl", "--recipe", "stage1.yaml", "--recipe", "stage2.yaml")
EXTEND = ("train", "--extend", "old", "--new-type", "allergen", "--data", "mine", "--recipe", "stage1.yaml")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "old"


@pytest.fixture
def old(here: Path, kept: Path) -> Path:
    """A trained adapter; the first test trains it for all."""
    if not kept.exists():
        run(*TRAIN, "--out", kept)
    shutil.copytree(kept, "old")
    return here / "old"


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        TRAIN,
        (*TRAIN, "--runs", "other"),
        EXTEND,
        (*EXTEND, "--runs", "other"),
        ("train", "--extend", "old", "--merge", "old"),
    ],
)
def test_a_finished_adapter_is_not_replaced_unasked(
    old: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    shutil.copytree(old, "taken")
    before = state(Path("taken"))
    monkeypatch.setattr(pocket, "load", lambda: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=r"adapter not replaced.*got taken.*--overwrite"):
        run(*command, "--out", "taken")
    assert state(Path("taken")) == before
    assert not Path("other").exists()


def test_it_is_replaced_when_asked(old: Path) -> None:
    before = state(old)
    run(*TRAIN, "--steps", 3, "--out", old, "--overwrite")
    assert state(old) != before


@pytest.mark.parametrize("command", [TRAIN, EXTEND])
def test_the_command_of_a_finished_run_leaves_its_calibrated_adapter_as_it_is(old: Path, command: Any) -> None:
    told = (*command, "--out", "out", "--runs", "runs")
    run(*told)
    run("calibrate", "out", "--benign", "benign", "--max-false-alarm", 0.9, "--confidence", 0.5)
    assert read_adapter("out").guard.thresholds
    before = state(Path("out"))
    for more in ((), ("--overwrite",)):
        assert "already finished, nothing done" in run(*told, *more)
        assert state(Path("out")) == before


def test_a_run_that_was_killed_before_its_adapter_was_written_finishes(here: Path) -> None:
    told = (*TRAIN, "--out", "out", "--runs", "runs")
    run(*told)
    before = state(Path("out"))
    shutil.rmtree("out")
    run(*told)
    assert state(Path("out")) == before


def test_another_recipe_in_a_finished_runs_folder_is_refused_and_nothing_replaced(here: Path) -> None:
    run(*TRAIN, "--out", "out", "--runs", "runs")
    before = state(Path("out"))
    with pytest.raises(ConfigError, match="not resumed: expected the recipe"):
        run(*TRAIN, "--out", "out", "--runs", "runs", "--steps", 3)
    with pytest.raises(ConfigError, match="adapter not replaced"):
        run(*TRAIN[:5], "--out", "out", "--runs", "runs")  # stage I alone
    assert state(Path("out")) == before


@pytest.mark.parametrize("runs", [(), ("--runs", "runs")])
def test_a_finished_training_whose_place_is_gone_is_kept(
    here: Path, monkeypatch: pytest.MonkeyPatch, runs: tuple[str, ...]
) -> None:
    from safety_modules.attach import SafetyAttachment

    save = SafetyAttachment.save_pretrained

    def full(self: Any, directory: Any, **options: Any) -> Any:
        if Path(directory).name == "out" and "safety-modules-" not in str(directory):
            raise OSError(28, "No space left on device")
        return save(self, directory, **options)

    monkeypatch.setattr(SafetyAttachment, "save_pretrained", full)
    monkeypatch.setenv("TMPDIR", str(here))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(
        ConfigError, match=r"not written to out.*No space left.*not lost: the adapter is in (.*)\. Copy"
    ) as told:
        run(*TRAIN, "--out", "out", *runs)
    kept = Path(str(told.value).partition("the adapter is in ")[2].partition(". Copy")[0])
    assert kept == Path("runs/adapter") if runs else kept.is_relative_to(here)
    assert read_adapter(kept).config.metadata["records"] == 4


def test_a_full_disk_is_refused_before_any_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "load", lambda: pytest.fail("loaded"))
    monkeypatch.setattr(places.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 5 * 10**6))
    with pytest.raises(AdapterError, match=r"disk full: expected at least 20 MB free for \., got 5\.0 MB"):
        run(*TRAIN, "--out", "out")


def test_steps_and_settings_change_the_recipes_and_are_recorded(here: Path) -> None:
    changes = ("--steps", 1, "--set", "seed=5", "--set", "stage2.batch_size=3", "--set", "hint_rate=0.5")
    run(*TRAIN, "--out", "out", "--runs", "runs", *changes)
    recorded = read_adapter("out").config.metadata
    assert recorded["recipe_changes"] == {
        "stage1.yaml": {"steps": 1, "seed": 5},
        "stage2.yaml": {"steps": 1, "seed": 5, "batch_size": 3, "hint_rate": 0.5},
    }
    assert recorded["recipes"]["stage1.yaml"] == RECIPE.format(1)
    trained = json.loads(Path("runs/stage2/run.json").read_text())["recipe"]
    assert (trained["steps"], trained["seed"], trained["batch_size"], trained["hint_rate"]) == (1, 5, 3, 0.5)


def test_fewer_steps_than_the_recipe_measures_after_are_measured_at_the_last_one() -> None:
    chosen = read_recipes(["llava-1.5-7b/stage1"], steps=5)
    assert (chosen.recipes[0].steps, chosen.recipes[0].evaluate_every) == (5, 5)
    assert chosen.changes == {"stage1.yaml": {"steps": 5, "evaluate_every": 5}}


def test_data_without_words_alone_trains_stage_two_without_them(here: Path) -> None:
    told = run("train", "--data", "data.jsonl", "--out", "out", "--steps", 1, "--set", "batch_size=4")
    assert "No records without a picture in the data: stage II is trained without them" in told
    assert read_adapter("out").config.metadata["recipe_changes"]["stage2.yaml"]["text_only_share"] == 0
    with pytest.raises(DataError, match=r"expected samples for 10% text-only, got 0 .*\(--set text_only_share=0\)"):
        run("train", "--data", "data.jsonl", "--out", "x", "--recipe", "llava-pocket/stage2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("sed=5", r"unknown key 'sed': did you mean 'seed'\?"),
        ("seed", "expected key=value or stage2.key=value, got 'seed'"),
        ("stage3.seed=1", "expected key=value or stage2.key=value"),
        ("learning_rate=much", "learning_rate: .*number"),
        ("stage1.hint_rate=0.5", "stage 1 does not know hint_rate"),
    ],
)
def test_a_change_that_no_recipe_takes_is_refused_before_the_base_is_loaded(
    here: Path, monkeypatch: pytest.MonkeyPatch, change: str, words: str
) -> None:
    monkeypatch.setattr(pocket, "load", lambda: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=words):
        run(*TRAIN, "--out", "out", "--set", change)
