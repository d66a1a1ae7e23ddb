"""A small adapter folder and ways to spoil it, for the tests of the format. No base model is needed."""

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from safety_modules.adapter import read_adapter, save_adapter
from safety_modules.adapter.format import lora_shapes
from safety_modules.config import BaseSizes, LoraSettings, SafetyConfig
from safety_modules.defences.base import Defence
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.defences.meta_token import MetaModules, MetaToken, MetaTokenSettings
from safety_modules.errors import AdapterError
from safety_modules.taxonomy import DEFAULT_TAXONOMY

SAFETY, LORA = "safety.safetensors", "lora/adapter_model.safetensors"
FILES = ("adapter_config.json", SAFETY, "lora/adapter_config.json", LORA)
META, META_LORA = "meta-token.safetensors", "meta-token-lora/adapter_model.safetensors"
BOTH = (*FILES, META, "meta-token-lora/adapter_config.json", META_LORA)
"""Of a folder with two parts."""
TENSORS = (SAFETY, LORA, META, META_LORA)

SIZES = BaseSizes(
    vision_width=16,
    text_width=32,
    num_patches=4,
    grid=(2, 2),
    vocab_size=64,
    num_layers=2,
    linears=(("self_attn.q_proj", 32, 32), ("self_attn.v_proj", 32, 16), ("mlp.up_proj", 32, 48)),
)
CONFIG = SafetyConfig(width=16, query="concept", lora=LoraSettings(r=2, target_modules=("q_proj", "v_proj")))
FINGERPRINT = {"architecture": "LlavaForConditionalGeneration", "digest": "abc"}
PROCESSOR = {"size": {"shortest_edge": 28}, "do_center_crop": True}
THRESHOLDS = {name: 0.1 * i for i, name in enumerate(DEFAULT_TAXONOMY.types, 1)}


def make_parts(config: SafetyConfig = CONFIG, seed: int = 0) -> tuple[SafetyModules, dict[str, torch.Tensor]]:
    """Random modules and LoRA tensors."""
    torch.manual_seed(seed)
    modules = SafetyModules(config, SIZES)
    lora = {name: torch.randn(shape) for name, shape in lora_shapes(config.lora, SIZES).items()} if config.lora else {}
    return modules, lora


class FakeLora:
    """A LoRA that stands on no model."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.tensors

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = dict(tensors)


def make_guard(modules: SafetyModules, lora: dict[str, torch.Tensor] | None, **calibration: Any) -> Guard:
    """A guard without a base: what is saved of one, and what tensors are loaded into."""
    guard = object.__new__(Guard)
    guard.settings, guard.modules, guard.lora = GuardSettings(), modules, FakeLora(lora) if lora else None
    guard._thresholds, guard._temperature = calibration.get("thresholds", {}), 1.0
    guard.rules = calibration.get("rules", {})
    return guard


def make_meta(seed: int = 2, **settings: Any) -> MetaToken:
    """Meta tokens without a base."""
    torch.manual_seed(seed)
    meta = object.__new__(MetaToken)
    meta.settings = MetaTokenSettings(**{"tokens": 3, "lora": CONFIG.lora, "thresholds": THRESHOLDS, **settings})
    meta.modules = MetaModules(SIZES.text_width, meta.settings)
    meta.lora = FakeLora({name: torch.randn(shape) for name, shape in lora_shapes(CONFIG.lora, SIZES).items()})
    return meta


def save(
    path: Path, config: SafetyConfig = CONFIG, seed: int = 0, inner: Sequence[Defence] = (), **changes: Any
) -> Path:
    """Write a valid adapter: a guard, and what else is to stand inside of it."""
    modules, lora = make_parts(config, seed)
    modules, lora = changes.pop("modules", modules), changes.pop("lora_tensors", lora)
    guard = make_guard(modules, lora, thresholds=changes.pop("thresholds", THRESHOLDS))
    arguments = {"fingerprint": FINGERPRINT, "sizes": SIZES, "processor": PROCESSOR, **changes}
    return save_adapter(path, [guard, *inner], **arguments)


def as_version(folder: Path, version: int) -> Path:
    """An adapter of one guard, its config said as an earlier version says it."""
    record = json.loads((folder / "adapter_config.json").read_text())
    (guard,) = record.pop("parts")
    old = {"format": record.pop("format"), "format_version": version, "safety": guard["settings"].pop("design")}
    record = {**old, **guard["settings"], **record, "format_version": version}
    if version < 3:
        del record["safety"]["ensemble"]
    if version < 2:
        del record["temperature"], record["rules"], record["safety"]["added"]
    (folder / "adapter_config.json").write_text(json.dumps(record, indent=2))
    return folder


def problems_of(folder: Path, **live: Any) -> list[str]:
    """Why the folder is refused; the test fails if it is not."""
    with pytest.raises(AdapterError) as caught:
        read_adapter(folder, **live)
    return caught.value.problems


def only(problems: list[str]) -> str:
    """The one problem there is."""
    assert len(problems) == 1, problems
    return problems[0]


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "adapter_config.json") -> None:
    """Change a JSON file's object in place."""
    record = json.loads((folder / name).read_text())
    change(record)
    (folder / name).write_text(json.dumps(record))


def replace(folder: Path, data: bytes, name: str = SAFETY, fix_digest: bool = True) -> None:
    """Write other bytes into a tensor file, by default as an attacker would: with the digest to match."""
    (folder / name).write_bytes(data)
    if fix_digest:
        digest = hashlib.sha256(data).hexdigest()
        edit_config(folder, lambda record: record["files"].update({name: digest}))


def rewrite(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], name: str = SAFETY, fix_digest: bool = True
) -> None:
    """Change the tensors of a file."""
    tensors = safetensors.torch.load_file(folder / name)
    change(tensors)
    replace(folder, safetensors.torch.save(tensors), name, fix_digest)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: dict[str, Any] | bytes, body: bytes) -> bytes:
    """The inverse of `split`; takes any bytes for a header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def edit_header(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = SAFETY) -> None:
    """Change a tensor file's header and leave its body."""
    header, body = split((folder / name).read_bytes())
    change(header)
    replace(folder, join(header, body), name)
