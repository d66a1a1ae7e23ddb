"""`safety-modules train --words` and `--teacher`: from sentences to an adapter, and from its labels to another."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner
from words_cases import saved_clip, tiny_clip

from safety_modules import pocket
from safety_modules.adapter import read_adapter
from safety_modules.cli import app
from safety_modules.errors import ConfigError, DataError
from safety_modules.taxonomy import DEFAULT_TAXONOMY

RECIPE = "stage: 1\nsteps: 2\nbatch_size: 2\nlearning_rate: 1.0e-3\n"


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Any, processor: Any, make_image: Any) -> Path:
    """The tiny base stands in for pocket; a CLIP, words, and pictures without labels."""
    monkeypatch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))
    saved_clip(tiny_clip(tiny_base), tmp_path / "clip")
    things = dict(zip(DEFAULT_TAXONOMY.types, ("bomb", "cigarette", "eye", "credit", "card", "tea"), strict=True))
    words = {
        "types": {name: {"high": [f"a {thing}"]} for name, thing in things.items()},
        "harmless": ["a dog", "a tree"],
    }
    (tmp_path / "types.yaml").write_text(yaml.safe_dump(words))
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for seed in range(12):
        make_image(seed).save(tmp_path / "pictures" / ("more" if seed % 2 else "") / f"{seed}.png")
    (tmp_path / "stage1.yaml").write_text(RECIPE)
    return tmp_path


def make_words(place: Path, *more: object) -> str:
    words = ("--words", place / "types.yaml", "--clip", place / "clip")
    return invoke("train", *words, "--out", place / "adapter", *more)


def test_words_become_an_adapter_that_says_what_comes_next(place: Path) -> None:
    said = make_words(place)
    assert "8 sentences" in said and "logs only until it is calibrated" in said and "--benign FILE" in said
    adapter = read_adapter(place / "adapter")
    assert adapter.guard.design.query == "words"
    assert adapter.guard.thresholds == {}
    assert adapter.config.metadata["words"] == str(place / "types.yaml")
    assert adapter.megabytes < 0.1


def test_the_words_in_a_clips_folder_are_its_default(place: Path) -> None:
    (place / "types.yaml").rename(place / "clip" / "types.yaml")
    invoke("train", "--words", "default", "--clip", place / "clip", "--out", place / "adapter")
    sentences = read_adapter(place / "adapter").guard.design.words.sentences
    assert [one.text for one in sentences][-2:] == ["a dog", "a tree"]


def test_a_finished_adapter_is_not_replaced_unasked(place: Path) -> None:
    make_words(place)
    with pytest.raises(ConfigError, match="adapter not replaced"):
        make_words(place)
    make_words(place, "--overwrite")


def test_a_type_of_ones_own_comes_with_its_rule(place: Path) -> None:
    words = yaml.safe_load((place / "types.yaml").read_text())
    words["types"]["gambling"] = {"low": ["a cup"]}
    (place / "types.yaml").write_text(yaml.safe_dump(words))
    make_words(place)
    guard = read_adapter(place / "adapter").guard
    assert guard.design.taxonomy.types == (*DEFAULT_TAXONOMY.types, "gambling")
    assert set(guard.rules) == {"gambling"}


def test_a_teacher_labels_pictures_and_stage_one_learns_from_them(place: Path) -> None:
    make_words(place)
    said = invoke(
        "train", "--teacher", place / "adapter", "--pictures", place / "pictures", "--confidence", 0.15,
        "--recipe", place / "stage1.yaml", "--out", place / "student",
    )  # fmt: skip
    assert "of 12 pictures" in said
    student = read_adapter(place / "student")
    assert student.guard.design.query == "reading"
    assert student.config.metadata["teacher"]["pictures"] == student.config.metadata["records"] > 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--words", "types.yaml"], "no CLIP: expected --clip"),
        (["--clip", "clip"], "no words: expected --words with --clip"),
        (["--words", "gone.yaml", "--clip", "clip"], "words .*gone.yaml not read"),
        (["--words", "types.yaml", "--clip", "clip", "--data", "x"], "expected none of --data with --words"),
        (["--words", "types.yaml", "--clip", "clip", "--teacher", "x", "--pictures", "y"], "--teacher, --pictures"),
        (["--teacher", "adapter"], "expected --teacher and --pictures together"),
        (["--pictures", "pictures"], "expected --teacher and --pictures together"),
        (["--confidence", "0.5"], "expected --teacher and --pictures together"),
        (["--teacher", "a", "--pictures", "p", "--confidence", "1.5"], "expected a number between 0 and 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("safety_modules.paths.checkpoint_dir", lambda: place / "nowhere")
    with pytest.raises(ConfigError, match=problem):
        invoke("train", "--out", place / "other", *arguments)


def test_what_is_no_picture_among_those_to_label_is_refused_by_name(place: Path) -> None:
    make_words(place)
    (place / "pictures" / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"notes\.txt: expected a picture file"):
        invoke("train", "--teacher", place / "adapter", "--pictures", place / "pictures", "--out", place / "student")
