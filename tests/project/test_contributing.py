"""The page for contributors: its example is run, and the tree it draws is the tree that is there."""

import copy
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from guard_cases import NEW, ROWS, answers, rows_of

import safety_modules
from safety_modules.attach import attach_safety
from safety_modules.backbones import find_backbone
from safety_modules.defences.registry import KINDS
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.systems import System

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def towards(tmp_path, monkeypatch):
    """The example as a file of its own, and its line in the registry."""
    file = tmp_path / "towards_example.py"
    file.write_text(EXAMPLE)
    spec = importlib.util.spec_from_file_location("towards_example", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "towards_example", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(KINDS, "towards", module.Towards)
    return module


def test_the_example_is_short():
    assert len(EXAMPLE.splitlines()) <= 60


def test_the_example_answers_otherwise_and_goes_without_a_trace(towards, model, processor, tiny_base, ask, tmp_path):
    inputs, off = ask(*ROWS), [row != 1 for row in range(len(ROWS))]
    expected = tiny_base.generate(**inputs, **NEW)
    safety = attach_safety(model, processor, defence=["adashield-s", towards.TowardsSettings(strength=2.0)])
    alone = {"adashield-s": False}
    moved = model.generate(**inputs, **NEW, safety=alone)
    assert not torch.equal(moved, expected)
    text = rows_of(inputs, [2], [])
    assert torch.equal(model.generate(**text, **NEW), tiny_base.generate(**text, **NEW)), "no picture, no move"
    assert torch.equal(model.generate(**inputs, **NEW, safety=False), expected)
    one = answers(model.generate(**inputs, **NEW, safety={**alone, "towards": [not row for row in off]}), inputs)
    others = [row for row in range(len(ROWS)) if off[row]]
    base = answers(tiny_base.generate(**rows_of(inputs, others, [0, 2, 3, 4, 5, 6, 7, 8]), **NEW), inputs)
    assert torch.equal(one[others, : base.shape[1]], base)
    folder = safety.save_pretrained(tmp_path / "adapter")
    safety.detach()
    assert torch.equal(model.generate(**inputs, **NEW), expected)
    again = attach_safety(copy.deepcopy(tiny_base), processor, folder)
    assert [one.kind for one in again.defences] == ["adashield-s", "towards"]
    assert torch.equal(again.generate(**inputs, **NEW, safety=alone).sequences, moved)


def test_the_example_is_a_system_under_test(towards, model, processor, make_image):
    defence = towards.Towards(find_backbone(model, processor))
    system = System("towards", model, processor, [defence])
    (reply,) = system.answer([Case(id="1", part="p", wanted="answer", prompt="why?", images=(make_image(1),))], 4)
    assert reply.lm_passes == 1 and reply.tower_runs == 1 and "2308.10248" in system.source


def test_the_tree_is_the_tree():
    drawn = PAGE[PAGE.index("safety_modules/   ") : PAGE.index("**The way of one image.**")]
    package = Path(safety_modules.__file__).parent
    rooms = {path.name for path in package.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert {room for room in rooms if f"{room}/" not in drawn} == set()
    for folder in ("checkpoints", "adapters", "training", "docs", "benchmarks", "tests"):
        assert f"{folder}/" in drawn and (ROOT / folder).is_dir()
    defences = {path.stem for path in (package / "defences").glob("*.py")} - {"__init__"}
    assert {name for name in defences if name not in drawn} == set()


def test_every_file_it_names_is_there():
    package = Path(safety_modules.__file__).parent
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)", PAGE))
    assert named and {name for name in named if not ((package / name).exists() or (ROOT / name).exists())} == set()
