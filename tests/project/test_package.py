"""What `import safety_modules` and `pip install` promise: light, complete, the data brought along."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import safety_modules

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "accelerate", "matplotlib", "sklearn", "PIL", "pydantic")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = f"import sys, safety_modules; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_finding_the_shipped_folders_imports_no_torch() -> None:
    assert run_python("import sys, safety_modules.paths; print('torch' in sys.modules)").strip() == "False"


@pytest.mark.matrix
@pytest.mark.parametrize("name", safety_modules.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(safety_modules, name)
    assert value.__name__ == name
    assert value.__module__.startswith("safety_modules.")


def test_public_names_are_listed_before_they_are_used() -> None:
    assert run_python("import safety_modules as s; print(set(s.__all__) <= set(dir(s)))").strip() == "True"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = safety_modules.no_such_name


@pytest.mark.matrix
def test_the_command_line_starts() -> None:
    arguments = "import sys; sys.argv = ['safety-modules', '--help']"
    assert "demo" in run_python(f"{arguments}; from safety_modules.cli import main; main()")


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=300)
    (wheel,) = folder.glob("safety_modules-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_brings_the_data_along(wheel_files: set[str]) -> None:
    expected = {
        f"safety_modules/_data/{file.relative_to(ROOT).as_posix()}"
        for folder in ("checkpoints/llava-pocket", "adapters/llava-pocket-safe", "training/llava-pocket")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and not {"__pycache__", "build"} & {*file.relative_to(ROOT).parts}
    }
    expected |= {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "safety_modules").rglob("*")
        if file.is_file()
        and not {"__pycache__", "build"} & {*file.relative_to(ROOT).parts}
        and file.name != ".DS_Store"
    }
    assert expected <= wheel_files
    assert not any(name.startswith(("tests/", "benchmarks/", "checkpoints/", ".")) for name in wheel_files)


def test_the_scripts_that_built_the_base_stay_in_the_repository(wheel_files: set[str]) -> None:
    assert (ROOT / "checkpoints" / "llava-pocket" / "build" / "tower.py").is_file()
    assert not [name for name in wheel_files if "/build/" in name]
    assert not [name for name in wheel_files if name.startswith("safety_modules/_data/") and name.endswith(".py")]
