"""What a missing library's error says to type is what brings it, and every extra is one that somebody is told of."""

import ast
import re
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from safety_modules.errors import DataError
from safety_modules.io import optional as extras

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parents[2]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
SOURCES = [path for path in (ROOT / "safety_modules").rglob("*.py") if "_data" not in path.parts]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_error_names_the_very_packages_of_the_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f'{package}; extra == "{name}"' for name, packages in EXTRAS.items() for package in packages]
    monkeypatch.setattr(extras, "requires", lambda name: ["torch>=2", *lines])
    wanted = " ".join(f'"{package.partition(";")[0]}"' for package in EXTRAS[extra])
    assert extras.install(extra) == f"Run pip install {wanted}."


def test_without_an_installation_it_names_the_extra_of_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", none)
    with pytest.raises(DataError, match=r'expected openai to be installed .* Run pip install "\.\[eval\]"\.'):
        monkeypatch.setitem(sys.modules, "openai", None)
        extras.needed("openai", "a judge", "eval")


def test_every_extra_is_named_where_it_is_needed_and_no_other_one() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert "safety-modules[" not in text, "the package is in no index: a clone's extra is installed as .[extra]"
    told = {name for group in re.findall(r"\.\[([a-z,]+)\]", text) for name in group.split(",")}
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    told |= set(re.findall(r"install\([\"'](\w+)[\"']\)", code))
    told |= set(re.findall(r"needed\(\"[\w.]+\", [^()]*?, \"(\w+)\"\)", code))
    assert told | {"dev"} == set(EXTRAS)


def test_no_error_sends_an_installed_user_to_a_page_that_is_not_installed() -> None:
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        pages = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in pages else None
            if isinstance(text, str) and "docs/" in text:
                found.append(f"{path.name}: {text}")
    assert found == []
