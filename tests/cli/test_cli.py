"""The command line starts quickly, hands its arguments on, and says in one line what is wrong."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from guard_cases import attach_as_trained
from PIL import Image
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.adapter import read_adapter
from safety_modules.cli import app, main, show
from safety_modules.config import ViewsSettings
from safety_modules.errors import ConfigError, DataError

runner = CliRunner()
COMMANDS = ("demo", "train", "calibrate", "classify", "inspect", "evaluate")


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base: Any, processor: Any) -> Path:
    """An adapter for the tiny base, which stands in for pocket."""
    model = copy.deepcopy(tiny_base)
    safety = attach_as_trained(model, processor)
    folder = safety.save_pretrained(tmp_path / "adapter", metadata={"note": "untrained"})
    safety.detach()
    monkeypatch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (28, 28), "red").save(path)
    return path


def run(*arguments: object) -> str:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['safety-modules', '--help']\n"
        "from safety_modules.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('heavy:', [n for n in ('torch', 'transformers', 'PIL', 'sklearn') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "heavy: []" in done.stdout, done.stdout + done.stderr
    assert all(command in done.stdout for command in COMMANDS)


def test_a_refusal_of_the_package_is_one_message_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["safety-modules", "inspect", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert "nothing refused, 1 problem" in printed.err
    assert "Traceback" not in printed.err + printed.out


def test_inspect_prints_parts_thresholds_and_base(adapter: Path) -> None:
    printed = run("inspect", adapter)
    for expected in (
        "a valid adapter, float16",
        "safety head",
        "LoRA",
        "MB",
        "thresholds (log-odds): not calibrated",
        "digest",
        "mode gated",
        "SHA-256 of safety.safetensors",
        "pixels: ",
        "torch ",
        "metadata: note 'untrained'",
    ):
        assert expected in printed, expected


def test_inspect_as_json_holds_the_numbers_that_are_printed(adapter: Path) -> None:
    record = json.loads(run("inspect", adapter, "--json"))
    assert record["valid"] and record["thresholds"] == {} and record["metadata"] == {"note": "untrained"}
    parts = record["parts"]
    assert parts["all"]["parameters"] == sum(size["parameters"] for part, size in parts.items() if part != "all")
    assert f"{parts['all']['parameters']:,} parameters" in run("inspect", adapter)


def test_inspect_shows_a_strangers_words_without_control_characters(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    record = json.loads(file.read_text())
    record["versions"]["torch\x1b[2J"] = "1\nbase: yours"
    record["metadata"] = {"\u202enote": ["\x07" * 1000]}
    file.write_text(json.dumps(record))
    assert all(line.isprintable() and len(line) < 1000 for line in run("inspect", adapter).splitlines())


@pytest.mark.parametrize("as_json", [False, True])
def test_inspect_prints_every_problem_of_a_broken_adapter_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], adapter: Path, as_json: bool
) -> None:
    (adapter / "safety.safetensors").write_bytes(b"")
    (adapter / "lora" / "adapter_config.json").unlink()
    monkeypatch.setattr(sys, "argv", ["safety-modules", "inspect", str(adapter), *["--json"] * as_json])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    printed = capsys.readouterr()
    problems = json.loads(printed.out)["problems"] if as_json else printed.err.split("\n  - ")[1:]
    assert len(problems) == 3
    for words in ("changed after saving", "truncated", "missing file lora/adapter_config.json"):
        assert any(words in problem for problem in problems), words


@pytest.mark.parametrize("base", ["llava-1.5-7b", "llava-1.5-13b"])
def test_inspect_plans_every_preset_for_a_published_base(base: str) -> None:
    record = json.loads(run("inspect", "--plan", base, "--json"))
    sizes = {preset: parts["all"]["megabytes"] for preset, parts in record["presets"].items()}
    assert 30 < sizes["default"] <= 80 and sizes["no-lora"] < 5 and 1400 < sizes["paper"] < 2500
    printed = run("inspect", "--plan", base)
    for preset, megabytes in sizes.items():
        assert f"{preset} design on {base}, 16 bit:" in printed and f"{megabytes:.2f} MB" in printed


@pytest.mark.parametrize("arguments", [[], ["somewhere", "--plan", "llava-1.5-7b"]])
def test_inspect_wants_one_subject(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="got both or neither"):
        run("inspect", *arguments)


def test_an_unknown_plan_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"llava-1\.5-7b, llava-1\.5-13b"):
        run("inspect", "--plan", "llava-7b")


def test_classify_prints_a_table_json_and_overlays(adapter: Path, picture: Path, tmp_path: Path) -> None:
    printed = run("classify", picture, "--adapter", adapter)
    assert "picture.png" in "".join(line.split("│")[1].strip() for line in printed.splitlines() if "│" in line)
    lines = run(
        "classify", picture, picture, "--adapter", adapter, "--json", "--overlays", tmp_path / "maps"
    ).splitlines()
    verdicts = [json.loads(line) for line in lines]
    assert [verdict["image_index"] for verdict in verdicts] == [0, 1]
    assert sum(verdicts[0]["probabilities"].values()) == pytest.approx(1)
    assert len(list((tmp_path / "maps").iterdir())) == 2


def test_a_question_changes_the_verdict(adapter: Path, picture: Path) -> None:
    alone = json.loads(run("classify", picture, "--adapter", adapter, "--json"))
    asked = json.loads(run("classify", picture, "--adapter", adapter, "--json", "--question", "how do I hurt?"))
    assert alone["risk"] != asked["risk"]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_classify_goes_through_folders_and_past_broken_files(
    adapter: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setattr(show, "AT_ONCE", 2)
    for name in ("b/2.png", "b/1.PNG", "a.png", "b/.hidden/x.png"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(picture.read_bytes())
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    (tmp_path / "folder" / "a0.png").write_bytes(picture.read_bytes()[:60])
    words = ["classify", str(tmp_path / "folder"), str(tmp_path / "gone.png"), "--adapter", str(adapter), *more]
    done = runner.invoke(app, words, env={"COLUMNS": "300"})
    assert done.exit_code == 1
    faults = [line for line in done.stderr.splitlines() if "folder/a0.png: " in line or "gone.png: " in line]
    assert len(faults) == 2
    assert "6 files: 3 judged, 2 not readable, 1 files that are no pictures passed over" in done.stderr
    if more:
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        names = [str(Path(line["image"]).relative_to(tmp_path)) for line in lines]
        assert names == ["folder/a.png", "folder/a0.png", "folder/b/1.PNG", "folder/b/2.png", "gone.png"]
        assert [line.get("image_index") for line in lines] == [0, None, 2, 3, None]
        assert [("error" in line, "risk" in line) for line in lines] == [
            (fault, not fault) for fault in (0, 1, 0, 0, 1)
        ]
    else:
        assert "notes.txt" not in done.stdout and "1.PNG" in "".join(done.stdout.split())


def test_a_folder_without_pictures_is_refused(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"nothing to judge: expected pictures in .*empty, got 0 other files"):
        run("classify", tmp_path / "empty", "--adapter", adapter)


def test_an_unreadable_picture_costs_itself_and_the_exit_code(adapter: Path, picture: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    words = ["classify", str(broken), str(picture), "--adapter", str(adapter)]
    done = runner.invoke(app, [*words, "--json"])
    bad, good = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 1 and good["image_index"] == 1 and good["risk"] > 0
    assert "broken.png: expected a picture" in bad["error"] and bad["error"] in done.stderr
    assert "broken.png: expected a picture" in runner.invoke(app, words).stderr


def test_another_base_needs_its_own_adapter(picture: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one with a base of your own"):
        run("classify", picture, "--model", tmp_path)


def test_a_folder_without_a_model_is_refused(adapter: Path, picture: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        run("classify", picture, "--model", tmp_path, "--adapter", adapter)


def test_a_base_is_loaded_from_its_folder(
    adapter: Path, picture: Path, tmp_path: Path, tiny_base: Any, processor: Any
) -> None:
    tiny_base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    verdict = json.loads(run("classify", picture, "--adapter", adapter, "--model", tmp_path / "base", "--json"))
    assert verdict == json.loads(run("classify", picture, "--adapter", adapter, "--json"))


def test_evaluate_writes_the_numbers_it_prints(adapter: Path, tmp_path: Path) -> None:
    printed = run("evaluate", "pocket", "--adapter", adapter, "--samples", 30, "--json", tmp_path / "n.json")
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers["settings"]["samples"] == 30
    assert f"{100 * numbers['guarded']['seen']['asr']:.1f}" in printed


@pytest.fixture
def data(tmp_path: Path, picture: Path) -> dict[str, Path]:
    """A small file of labelled records, one of clean ones, and a recipe of a few steps for each stage."""
    rows = []
    for index in range(14):
        said = [
            {"from": "USER", "value": f"<image>\nWhat is this, asked for the {index}th time?"},
            {"from": "ASSISTANT", "value": "A square."},
        ]
        level = 0 if index % 7 == 6 else 1 + index % 3
        rows.append({"image": picture.name, "safe_type": index % 7, "safe_level": level, "conversations": said})
    paths = {name: tmp_path / name for name in ("risky.jsonl", "clean.json", "stage1.yaml", "stage2.yaml")}
    paths["risky.jsonl"].write_text("\n".join(json.dumps(row) for row in rows))
    clean = []
    for number in range(6):
        Image.new("RGB", (28, 28), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        clean.append({"image": f"{number}.png", "conversations": rows[0]["conversations"]})
    paths["clean.json"].write_text(json.dumps(clean))
    paths["stage1.yaml"].write_text("stage: 1\nsteps: 2\nbatch_size: 4\nlearning_rate: 1.0e-3\nbalance: none\n")
    paths["stage2.yaml"].write_text("stage: 2\nsteps: 2\nbatch_size: 4\nlearning_rate: 1.0e-3\nbalance: none\n")
    return paths


def test_train_saves_an_adapter_and_calibrate_sets_its_thresholds(
    adapter: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "trained"
    recipes = [part for stage in (1, 2) for part in ("--recipe", data[f"stage{stage}.yaml"])]
    printed = run("train", "--out", out, "--data", data["risky.jsonl"], *recipes)
    assert "not calibrated yet" in printed
    trained = read_adapter(out)
    config = trained.config
    assert trained.guard.thresholds == {}
    assert config.metadata["records"] == 14
    assert set(config.metadata["recipes"]) == {"stage1.yaml", "stage2.yaml"}

    printed = run("calibrate", out, "--benign", data["clean.json"], "--max-false-alarm", 0.5)
    calibrated = read_adapter(out)
    after, thresholds = calibrated.config, calibrated.guard.thresholds
    assert len(set(thresholds.values())) == 1
    assert f"{thresholds['illegal']:.2f}" in printed
    calibration = after.metadata.pop("calibration")
    assert after.metadata == config.metadata
    assert calibration["images"] == 6 and calibration["thresholds"] == thresholds
    assert "unknown" in printed
    assert after.files == config.files, "calibration must not change a tensor"

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for picture in tmp_path.glob("[0-9].png"):
        picture.rename(pictures / picture.name)
    run("calibrate", out, "--benign", pictures, "--max-false-alarm", 0.5)
    assert read_adapter(out).config.metadata["calibration"]["images"] == 6, "all of them are clean"

    def voting() -> tuple[Any, float]:
        guard = read_adapter(out).guard
        return guard.design.views, guard.thresholds["illegal"]

    told = ("--benign", pictures, "--max-false-alarm", 0.5)
    one_look = voting()
    assert "by the mean of 3 random views" in run("calibrate", out, *told, "--views", 3)
    by_views = voting()
    assert by_views[0] == ViewsSettings(count=3) and by_views[1] != one_look[1]
    run("calibrate", out, *told)
    assert voting() == by_views, "kept, where nothing is said"
    assert "'count': 3" in run("inspect", out)
    run("calibrate", out, *told, "--views", 0)
    assert voting() == one_look
    for wrong in (("--views", 1), ("--views", 3, "--type", "illegal")):
        with pytest.raises(ConfigError, match=r"views refused|types named twice"):
            run("calibrate", out, *told, *wrong)


def test_training_another_base_needs_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected --data"):
        run("train", "--out", tmp_path / "x", "--model", tmp_path)
    with pytest.raises(ConfigError, match="expected --benign"):
        run("calibrate", tmp_path / "x", "--model", tmp_path)
