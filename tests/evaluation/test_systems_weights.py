"""What is refused when systems are made: names, missing weights, folders that do not belong."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from systems_cases import OURS, save_adapter_folder, save_lora_folder

from safety_modules.errors import AdapterError, ConfigError
from safety_modules.evaluation.systems import NAMES, make_system


@pytest.fixture
def lora(tiny_base: Any, processor: Any, tmp_path: Path) -> Path:
    return save_lora_folder(tiny_base, processor, tmp_path / "lora")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gatted", "Did you mean 'gated'"),
        ("none=folder", "nothing to load"),
        ("lora", "comparison.py train --out DIR --only lora"),
        ("meta-token=/no/such/folder", "comparison.py train --out DIR --only meta-token"),
        ("paper", "comparison.py train --out DIR --only paper"),
        ("gated", "safety-modules train --out DIR"),
        ("external", "no adapter"),
    ],
)
def test_a_system_that_cannot_be_made_says_what_to_do(spec: str, says: str, tiny_base: Any, processor: Any) -> None:
    with pytest.raises(ConfigError, match=says):
        make_system(spec, tiny_base, processor)


def test_an_adapter_is_shared_by_the_systems_that_need_one(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    folder = save_adapter_folder(tiny_base, processor, tmp_path / "ours", OURS, 0.5)
    for name in ("gated", "always", "external"):
        system = make_system(name, tiny_base, processor, folder)
        assert system.name == name
        assert (
            system.describe()["adapter"] == make_system(f"{name}={folder}", tiny_base, processor).describe()["adapter"]
        )


def test_a_classifier_alone_is_smaller_than_the_whole_adapter(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    folder = save_adapter_folder(tiny_base, processor, tmp_path / "ours", OURS, 0.5)
    whole, head = (make_system(name, tiny_base, processor, folder) for name in ("gated", "external"))
    assert 0 < head.extra_parameters < whole.extra_parameters
    assert 0 < head.extra_mb < whole.extra_mb


def test_the_published_system_takes_the_published_design_only(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    folder = save_adapter_folder(tiny_base, processor, tmp_path / "ours", OURS, 0.5)
    with pytest.raises(ConfigError, match="not the published design"):
        make_system(f"paper={folder}", tiny_base, processor)


def test_weights_of_another_system_are_refused(lora: Path, tiny_base: Any, processor: Any) -> None:
    with pytest.raises(AdapterError, match="expected weights of meta-token, got those of lora"):
        make_system(f"meta-token={lora}", tiny_base, processor)


def test_weights_for_another_base_are_refused(lora: Path, tiny_base: Any, processor: Any) -> None:
    other = copy.deepcopy(tiny_base)
    with torch.no_grad():
        other.model.language_model.norm.weight.add_(1)
    with pytest.raises(AdapterError, match="other base: language_model: "):
        make_system(f"lora={lora}", other, processor)


def test_every_system_names_its_source(tiny_base: Any, processor: Any) -> None:
    assert len(set(NAMES)) == len(NAMES) == 9
    for name in ("none", "adashield-s", "ecso"):
        system = make_system(name, tiny_base, processor)
        assert system.source and system.describe()["system"] == name
