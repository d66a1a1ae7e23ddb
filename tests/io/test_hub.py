"""A name is a path if something of it is here, then something shipped, then a hub id; never by accident."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from typer.testing import CliRunner

from safety_modules import paths
from safety_modules.adapter.hub import find_adapter
from safety_modules.backbones.bases import find_base
from safety_modules.cli import app
from safety_modules.errors import AdapterError, ConfigError, SafetyModulesError
from safety_modules.evaluation.suites.registry import data_folder
from safety_modules.io.hub import HubId, hub_id


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the hub, which cannot be reached, was asked for, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    found: list[str] = []

    def offline(repository: str, **options: Any) -> str:
        found.append(repository)
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    return found


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("owner/name", HubId("owner/name", None)),
        ("hf://owner/name", HubId("owner/name", None)),
        ("owner/name@v1", HubId("owner/name", "v1")),
        ("hf://runs/name@v1", HubId("runs/name", "v1")),
        ("runs/name", None),  # the folder runs is here: a slip in a path
        ("./owner/name", None),
        ("../owner/name", None),
        ("/owner/name", None),
        ("~/owner", None),
        ("owner/name/more", None),
        ("owner", None),
        ("hf://owner", None),
        (Path("owner/name"), None),
    ],
)
def test_only_a_name_that_cannot_be_a_mistyped_path_is_a_hub_id(name: Any, wanted: HubId | None) -> None:
    Path("runs").mkdir()
    assert hub_id(name) == wanted


@pytest.mark.parametrize("find", [find_adapter, find_base, data_folder])
def test_whatever_is_looked_for_a_hub_id_without_network_says_what_to_run(find: Any, asked: list[str]) -> None:
    with pytest.raises(SafetyModulesError, match=r"hf download .*owner/name` where there is a network"):
        find("owner/name")
    assert asked == ["owner/name"]


COMMANDS = [
    "classify a.png --adapter X",
    "classify a.png --model X --adapter llava-pocket-safe",
    "inspect X",
    "audit . --out out --adapter X",
    "audit . --out out --model X --adapter llava-pocket-safe",
    "evaluate pocket --adapter X",
    "evaluate --suite pocket --limit 1 --adapter X",
    "evaluate --suite pocket --limit 1 --defence gated=X",
    "evaluate --suite pocket --limit 1 --model X",
    "train --out out --model X --data .",
    "train --out out --extend X --new-type x --data .",
    "train --out out --extend llava-pocket-safe --merge X",
    "calibrate mine --model X --benign .",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_hub_id(command: str, asked: list[str], make_image: Any) -> None:
    make_image(0).save("a.png")
    done = CliRunner().invoke(app, command.replace("X", "owner/name").split())
    assert isinstance(done.exception, SafetyModulesError), done.output
    assert "hf download owner/name" in str(done.exception)
    assert asked == ["owner/name"]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_a_mistyped_path_for_a_hub_id(command: str, asked: list[str], make_image: Any) -> None:
    make_image(0).save("a.png")
    Path("models").mkdir()
    done = CliRunner().invoke(app, command.replace("X", "models/lava").split())
    assert isinstance(done.exception, SafetyModulesError), done.output
    assert "models/lava" in str(done.exception)
    assert asked == []


def test_a_shipped_name_stands_for_its_folder_unless_something_here_has_it() -> None:
    assert find_adapter("llava-pocket-safe") == paths.adapter_dir()
    assert find_base("llava-pocket") == paths.checkpoint_dir()
    Path("llava-pocket-safe").mkdir()
    assert find_adapter("llava-pocket-safe") == Path("llava-pocket-safe")


def test_a_name_of_nothing_is_refused_with_the_names_there_are() -> None:
    done = CliRunner().invoke(app, ["inspect", "llava-pocket-saef"])
    assert isinstance(done.exception, AdapterError)
    assert "shipped with the package: llava-pocket-safe" in str(done.exception)


@pytest.mark.parametrize("name", ["llava-1.5-7b/stage2-qlora", "llava-1.5-7b/stage2-qlora.yaml"])
def test_a_recipe_is_found_by_name(name: str) -> None:
    assert paths.recipe_file(name).name == "stage2-qlora.yaml"
    own = Path(name)
    own.parent.mkdir()
    own.touch()
    assert paths.recipe_file(name) == own


@pytest.mark.parametrize("name", ["llava-1.5-7b/stage3", "accelerate/fsdp", "gone.yaml"])
def test_a_recipe_that_is_none_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"llava-1\.5-7b/stage2-qlora.*llava-pocket/stage1"):
        paths.recipe_file(name)
