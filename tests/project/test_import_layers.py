"""`make check` refuses an import against the layers of pyproject.toml, in whatever form it is written."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

grimp: Any = pytest.importorskip("grimp", reason="only the development environment checks imports")
importlinter: Any = pytest.importorskip("importlinter.api", reason="only the development environment checks imports")

ROOT = Path(__file__).resolve().parents[2]


def lint(root: Path) -> tuple[int, str]:
    """Exit code and output of what `make check` runs, in a tree."""
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package's code, and of what its imports must keep to."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path in (ROOT / "safety_modules").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path


def test_the_package_keeps_to_its_layers() -> None:
    code, output = lint(ROOT)
    assert code == 0, output
    assert "Contracts: 3 kept, 0 broken." in output


def test_make_check_runs_the_command_that_is_tested_here() -> None:
    (target,) = [
        part for part in (ROOT / "Makefile").read_text(encoding="utf-8").split("\n\n") if part.startswith("check:")
    ]
    assert target.splitlines()[-1].endswith("/bin/lint-imports --no-logo --no-cache")


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("metrics.py", "import safety_modules.policy.policy", "safety_modules.metrics -> safety_modules.policy.policy"),
        (
            "backbones/parts.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from safety_modules.attach import attach",
            "safety_modules.backbones.parts -> safety_modules.attach.attach",
        ),
        (
            "adapter/format.py",
            "def late() -> object:\n    from safety_modules.training import recipe\n    return recipe",
            "safety_modules.adapter.format -> safety_modules.training",
        ),
        (
            "version.py",
            "import safety_modules.errors\nimport safety_modules",
            "safety_modules.version -> safety_modules",
        ),
        ("errors.py", "from safety_modules.taxonomy import Taxonomy", "No cycles are allowed in safety_modules."),
        ("cli/options.py", "import safety_modules.cli.data", "No cycles are allowed in safety_modules.cli."),
        (
            "training/recipe.py",
            "from safety_modules.pocket import mix",
            "safety_modules.training.recipe -> safety_modules.pocket.mix",
        ),
        ("fresh.py", "", "safety_modules.fresh"),
    ],
    ids=[
        "upwards",
        "for types",
        "in a function",
        "the whole package",
        "circle",
        "circle in a room",
        "pocket",
        "new room",
    ],
)
def test_an_import_against_the_layers_is_refused_and_named(tree: Path, file: str, text: str, told: str) -> None:
    path = tree / "safety_modules" / file
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}\n{text}\n", encoding="utf-8")
    code, output = lint(tree)
    assert code == 1
    assert told in " ".join(output.split())


def test_no_file_imports_itself_in_a_circle_not_even_by_the_room_it_is_in() -> None:
    contracts = importlinter.read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    graph = grimp.build_graph("safety_modules", cache_dir=None)
    for ignored in {line for contract in contracts for line in contract.get("ignore_imports", ())}:
        importer, imported = ignored.split(" -> ")
        graph.remove_import(importer=importer, imported=imported)
    circles = [
        (module, *graph.find_shortest_chain(imported, module))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if module in graph.find_upstream_modules(imported)
    ]
    assert circles == []
