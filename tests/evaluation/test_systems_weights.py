"""What is refused when systems are made: names, missing weights, folders that do not belong."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from systems_cases import LORA, META, OURS, save_adapter_folder, save_folder, save_lora_folder, save_meta_folder

from safety_modules.adapter import read_adapter
from safety_modules.adapter.format import CONFIG_FILE, lora_files, tensor_file
from safety_modules.attach import attach_safety
from safety_modules.backbones import find_backbone
from safety_modules.defences.davsp import Davsp
from safety_modules.defences.lora_tuning import LoraTuning, LoraTuningSettings
from safety_modules.defences.meta_token import MetaToken
from safety_modules.defences.tga import Tga, TgaSettings
from safety_modules.errors import AdapterError, ConfigError
from safety_modules.evaluation.systems import NAMES, make_system

LORA_TENSORS, META_TENSORS = lora_files("lora")[1], tensor_file("meta-token")


@pytest.fixture
def lora(tiny_base: Any, processor: Any, tmp_path: Path) -> Path:
    return save_lora_folder(tiny_base, processor, tmp_path / "lora")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gatted", "Did you mean 'gated'"),
        ("none=folder", "nothing to load"),
        ("ecso=folder", "nothing to load"),
        ("lora", r"comparison\.py train --out DIR --only lora"),
        ("meta-token=/no/such/folder", r"comparison\.py train --out DIR --only meta-token"),
        ("paper", r"comparison\.py train --out DIR --only paper"),
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
    meta = MetaToken(find_backbone(tiny_base, processor), META)
    back = read_adapter(save_folder(meta, processor, tmp_path / "w")).part("meta-token")
    written = meta.modules.state_dict()
    assert back.tensors.keys() == written.keys()
    assert all(back.tensors[name].equal(tensor.half()) for name, tensor in written.items())
    assert all(back.lora_tensors[name].equal(tensor.half()) for name, tensor in meta.lora.state_dict().items())


def test_weights_of_another_system_are_refused(lora: Path, tiny_base: Any, processor: Any) -> None:
    for name, wanted in (("meta-token", "meta-token"), ("gated", "guard"), ("paper", "guard")):
        with pytest.raises(AdapterError, match=f"expected weights of {wanted}, got those of lora"):
            make_system(f"{name}={lora}", tiny_base, processor)


def test_weights_for_another_base_are_refused(lora: Path, tiny_base: Any, processor: Any) -> None:
    other = copy.deepcopy(tiny_base)
    with torch.no_grad():
        other.model.language_model.norm.weight.add_(1)
    with pytest.raises(AdapterError, match="other base: language_model: "):
        make_system(f"lora={lora}", other, processor)


def test_damaged_weights_are_refused(lora: Path, tiny_base: Any, processor: Any) -> None:
    data = bytearray((lora / LORA_TENSORS).read_bytes())
    data[-1] ^= 1
    (lora / LORA_TENSORS).write_bytes(bytes(data))
    with pytest.raises(AdapterError, match="changed after saving"):
        make_system(f"lora={lora}", tiny_base, processor)


def redigest(folder: Path, name: str, data: bytes) -> None:
    """Put a file in place, and its digest into the config."""
    (folder / name).write_bytes(data)
    record = json.loads((folder / CONFIG_FILE).read_text())
    record["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / CONFIG_FILE).write_text(json.dumps(record))


def test_a_file_that_is_no_safetensors_is_refused_even_with_its_digest(
    lora: Path, tiny_base: Any, processor: Any
) -> None:
    redigest(lora, LORA_TENSORS, b"no tensors")
    with pytest.raises(AdapterError, match=f"{LORA_TENSORS} is not safetensors"):
        make_system(f"lora={lora}", tiny_base, processor)


@pytest.mark.parametrize("content", ["[]", "{", '{"system": "lora", "more": 1}'])
def test_a_record_that_is_none_is_refused(content: str, lora: Path, tiny_base: Any, processor: Any) -> None:
    (lora / CONFIG_FILE).write_text(content)
    with pytest.raises(AdapterError):
        make_system(f"lora={lora}", tiny_base, processor)


def test_numbers_that_are_none_are_refused(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    lora = LoraTuning(find_backbone(tiny_base, processor), LoraTuningSettings(lora=LORA))
    with torch.no_grad():
        next(lora.lora.parameters())[0, 0] = torch.nan
    with pytest.raises(AdapterError, match="holds NaN or infinity"):
        save_folder(lora, processor, tmp_path / "nan")


def test_tensors_of_another_design_are_refused(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    folder = save_meta_folder(tiny_base, processor, tmp_path / "meta", 0.5)
    tensors = safetensors.torch.load_file(folder / META_TENSORS)
    tensors["tokens.weight"] = tensors["tokens.weight"][:1].clone()
    tensors["more"] = tensors.pop("head.0.bias")
    redigest(folder, META_TENSORS, safetensors.torch.save(tensors, {"format": "pt"}))
    with pytest.raises(AdapterError) as caught:
        make_system(f"meta-token={folder}", tiny_base, processor)
    assert len(caught.value.problems) == 3


def test_every_system_names_its_source(tiny_base: Any, processor: Any) -> None:
    assert len(set(NAMES)) == len(NAMES) == 14
    for name in ("none", "adashield-s", "ecso", "cmrm", "shiftdc"):
        system = make_system(name, tiny_base, processor)
        assert system.source and system.describe()["system"] == name


def test_what_was_fitted_is_a_system_by_its_name_or_by_its_folder(model: Any, processor: Any, tmp_path: Path) -> None:
    safety = attach_safety(model, processor, defence="cmrm")
    folder = safety.save_pretrained(tmp_path / "cmrm")
    safety.detach()
    by_name, by_folder = (make_system(spec, model, processor) for spec in ("cmrm", f"cmrm={folder}"))
    assert by_name.extra_mb == 0 and by_folder.extra_mb > 0 and by_name.extra_parameters == by_folder.extra_parameters
    assert by_name.describe()["defences"] == by_folder.describe()["defences"]
    with pytest.raises(
        AdapterError, match=r"expected weights of shiftdc, got those of cmrm.*safety-modules fit shiftdc"
    ):
        make_system(f"shiftdc={folder}", model, processor)
    with pytest.raises(ConfigError, match="nothing to load: expected 'ecso' alone"):
        make_system(f"ecso={folder}", model, processor)


def test_tga_is_a_system_by_its_folder_and_says_what_trains_it(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    settings = TgaSettings(tokens=2, width=4, rank=2)
    folder = save_folder(Tga(find_backbone(tiny_base, processor), settings), processor, tmp_path / "tga")
    system = make_system(f"tga={folder}", tiny_base, processor)
    assert "2410.12662" in system.source and system.leaves_out and system.extra_mb > 0
    with pytest.raises(ConfigError, match="safety-modules train --defence tga"):
        make_system("tga", tiny_base, processor)


def test_davsp_is_a_system_by_its_folder_and_says_what_trains_it(
    tiny_base: Any, processor: Any, tmp_path: Path
) -> None:
    folder = save_folder(Davsp(find_backbone(tiny_base, processor)), processor, tmp_path / "davsp")
    system = make_system(f"davsp={folder}", tiny_base, processor)
    assert "2506.09353" in system.source and system.leaves_out and system.extra_mb > 0
    with pytest.raises(ConfigError, match="safety-modules train --defence davsp"):
        make_system("davsp", tiny_base, processor)
