"""The shipped folders are found in a checkout and in an installed wheel, and nowhere else."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from safety_modules import paths
from safety_modules.cli import app
from safety_modules.errors import ConfigError, DataError


def make_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for the package, standing in for a checkout or for site-packages."""
    folder = tmp_path / "safety_modules"
    folder.mkdir()
    monkeypatch.setattr(paths, "_PACKAGE", folder)
    return folder


def test_this_checkout_ships_the_base_its_adapter_and_its_recipes() -> None:
    root = paths.source_root()
    assert root is not None
    assert paths.checkpoint_dir() == root / "checkpoints" / "llava-pocket"
    assert paths.adapter_dir() == root / "adapters" / "llava-pocket-safe"
    assert paths.recipe_dir() == root / "training" / "llava-pocket"


def test_a_wheel_finds_the_folders_inside_the_package(package: Path) -> None:
    config = make_file(package / "_data" / "checkpoints" / "llava-pocket" / "config.json")
    assert paths.source_root() is None
    assert paths.checkpoint_dir() == config.parent


def test_a_checkout_wins_over_the_copy_of_an_editable_install(package: Path) -> None:
    make_file(package.parent / "pyproject.toml")
    make_file(package / "_data" / "adapters" / "llava-pocket-safe" / "adapter_config.json")
    config = make_file(package.parent / "adapters" / "llava-pocket-safe" / "adapter_config.json")
    assert paths.adapter_dir() == config.parent


def test_a_neighbouring_folder_of_an_installed_package_is_not_ours(package: Path) -> None:
    make_file(package.parent / "checkpoints" / "llava-pocket" / "config.json")
    with pytest.raises(DataError):
        paths.checkpoint_dir()


def test_a_folder_with_only_a_readme_is_an_error_that_names_what_was_expected(package: Path) -> None:
    make_file(package.parent / "pyproject.toml")
    make_file(package.parent / "training" / "llava-pocket" / "README.md")
    with pytest.raises(DataError, match=r"'training/llava-pocket'.*stage1\.yaml or .*_data.*stage1\.yaml"):
        paths.recipe_dir()


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("llava-pocket", "checkpoints/llava-pocket"),
        ("llava-pocket-safe", "adapters/llava-pocket-safe"),
        ("llava-pocket/stage1", "training/llava-pocket/stage1.yaml"),
        ("accelerate/multi-gpu.yaml", "training/accelerate/multi-gpu.yaml"),
        ("policy.yaml", "safety_modules/data/policy.yaml"),
    ],
)
def test_everything_shipped_has_a_name_and_a_place(name: str, end: str) -> None:
    done = CliRunner().invoke(app, ["path", name])
    found = Path(done.output.strip())
    assert found.exists() and found.as_posix().endswith(end)


def test_a_name_of_nothing_shipped_lists_what_is() -> None:
    with pytest.raises(
        ConfigError, match=r"expected one of llava-pocket, llava-pocket-safe, accelerate/.*, policy, got"
    ):
        paths.shipped_path("llava-poket")
