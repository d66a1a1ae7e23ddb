"""What is refused when systems are made: names, missing weights, folders that do not belong."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safety_modules.evaluation.systems.meta_parts import MetaModel
from safety_modules.evaluation.systems.weights import RECORD, TENSORS, read_weights, write_weights
from systems_cases import LORA, META, OURS, save_adapter_folder, save_lora_folder, save_meta_folder

from safety_modules.backbones import find_backbone
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


def test_weights_come_back_in_sixteen_bit(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    backbone = find_backbone(tiny_base, processor)
    written = MetaModel(backbone, META).tensors()
    write_weights(tmp_path / "w", "meta-token", backbone.fingerprint(), {}, written)
    back = read_weights(tmp_path / "w", "meta-token", backbone.fingerprint()).tensors
    assert back.keys() == written.keys()
    assert all(back[name].equal(tensor.half()) for name, tensor in written.items())


def test_weights_of_another_system_are_refused(lora: Path, tiny_base: Any, processor: Any) -> None:
    with pytest.raises(AdapterError, match="expected weights of meta-token, got those of lora"):
        make_system(f"meta-token={lora}", tiny_base, processor)


def test_weights_for_another_base_are_refused(lora: Path, tiny_base: Any, processor: Any) -> None:
    other = copy.deepcopy(tiny_base)
    with torch.no_grad():
        other.model.language_model.norm.weight.add_(1)
    with pytest.raises(AdapterError, match="other base: language_model: "):
        make_system(f"lora={lora}", other, processor)


def test_damaged_weights_are_refused(lora: Path, tiny_base: Any, processor: Any) -> None:
    data = bytearray((lora / TENSORS).read_bytes())
    data[-1] ^= 1
    (lora / TENSORS).write_bytes(bytes(data))
    with pytest.raises(AdapterError, match="damaged"):
        make_system(f"lora={lora}", tiny_base, processor)


def test_a_file_that_is_no_safetensors_is_refused_even_with_its_digest(
    lora: Path, tiny_base: Any, processor: Any
) -> None:
    (lora / TENSORS).write_bytes(b"no tensors")
    record = json.loads((lora / RECORD).read_text())
    record["sha256"] = hashlib.sha256(b"no tensors").hexdigest()
    (lora / RECORD).write_text(json.dumps(record))
    with pytest.raises(AdapterError, match=f"{TENSORS}: expected safetensors, got"):
        make_system(f"lora={lora}", tiny_base, processor)


@pytest.mark.parametrize("content", ["[]", "{", '{"system": "lora", "more": 1}'])
def test_a_record_that_is_none_is_refused(content: str, lora: Path, tiny_base: Any, processor: Any) -> None:
    (lora / RECORD).write_text(content)
    with pytest.raises(AdapterError):
        make_system(f"lora={lora}", tiny_base, processor)


def test_numbers_that_are_none_are_refused(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    base = find_backbone(tiny_base, processor).fingerprint()
    write_weights(tmp_path, "lora", base, LORA.model_dump(mode="json"), {"a": torch.tensor([1.0, torch.nan])})
    with pytest.raises(AdapterError, match="a: expected finite numbers"):
        make_system(f"lora={tmp_path}", tiny_base, processor)


def test_tensors_of_another_design_are_refused(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    folder = save_meta_folder(tiny_base, processor, tmp_path / "meta", 0.5)
    backbone = find_backbone(tiny_base, processor)
    tensors = safetensors.torch.load_file(folder / TENSORS)
    tensors["tokens"] = tensors["tokens"][:1]
    tensors["more"] = tensors.pop("head.mlp.0.bias")
    write_weights(folder, "meta-token", backbone.fingerprint(), META.model_dump(mode="json"), tensors)
    with pytest.raises(AdapterError) as caught:
        make_system(f"meta-token={folder}", tiny_base, processor)
    assert len(caught.value.problems) == 3


def test_every_system_names_its_source(tiny_base: Any, processor: Any) -> None:
    assert len(set(NAMES)) == len(NAMES) == 9
    for name in ("none", "adashield-s", "ecso"):
        system = make_system(name, tiny_base, processor)
        assert system.source and system.describe()["system"] == name
