"""The checks on an adapter folder: each adds sentences to a list of problems and never stops at the first."""

import hashlib
import re
from collections.abc import Mapping
from math import prod
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError

from safety_modules.adapter.files import Folder
from safety_modules.adapter.format import CONFIG_FILE, DTYPES, FORMAT, FORMAT_VERSION, AdapterConfig, PartRecord
from safety_modules.adapter.guard_config import NEWEST_VERSION, GuardConfig
from safety_modules.adapter.header import MOST_HEADER_BYTES, Entry, read_header
from safety_modules.backbones.bases import LORA_PREFIX, PROJECTOR_PREFIX
from safety_modules.backbones.fingerprint import (
    LANGUAGE_MODEL,
    VOCABULARY,
    Fingerprint,
    difference,
    differences,
    fingerprint_problems,
    shortened,
)
from safety_modules.config import BaseSizes
from safety_modules.defences.guard.guard import GuardSettings
from safety_modules.defences.registry import KINDS
from safety_modules.errors import validation_problems
from safety_modules.io.strict import parse_json, quote, same

MOST_CONFIG_BYTES = 1_000_000
DTYPE_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
"""safetensors' names of the dtypes an adapter may have."""
LORA_PLACES = {LORA_PREFIX: "language model", PROJECTOR_PREFIX: "projector"}
"""What a LoRA is on, by what stands before its tensors' names."""
SETTINGS = re.compile(r"\bparts\.(\d+)\.settings\b")


def check_json(folder: Folder, name: str, expected: Mapping[str, Any], problems: list[str]) -> None:
    """The file must hold exactly this object."""
    raw = folder.read(name, limit=MOST_CONFIG_BYTES)
    if raw is None:
        return
    got = parse_json(raw, name, problems)
    if got is None:
        return
    found = [f"{name}: missing key {key!r}." for key in expected if key not in got]
    found += [f"{name}: unknown key {quote(key)}." for key in got if key not in expected]
    for key in expected:
        if key in got and not same(got[key], expected[key]):
            found.append(
                f"{name}: {key} does not match {CONFIG_FILE}: expected {expected[key]!r}, got {quote(got[key])}."
            )
    problems += shortened(found, name)


def parse_config(raw: bytes, problems: list[str]) -> AdapterConfig | None:
    """adapter_config.json, or None and every problem with it."""
    value = parse_json(raw, CONFIG_FILE, problems)
    if value is None:
        return None
    if "peft_type" in value:
        problems.append("not a safety adapter: this is a plain peft adapter. Load it with peft.")
        return None
    found, number = value.get("format"), value.get("format_version")
    if found == FORMAT and type(number) is int and number > FORMAT_VERSION:
        problems.append(
            f"newer format: this version reads format_version 1 to {FORMAT_VERSION}, got {quote(number)}. "
            "Upgrade safety-modules."
        )
        return None
    old = type(number) is int and 1 <= number <= NEWEST_VERSION
    try:
        if old:
            return GuardConfig.model_validate_json(raw, strict=True).in_parts()
        return AdapterConfig.model_validate_json(raw, strict=True)
    except ValidationError as error:
        # Said by its kind, not by its place: `guard.design.width`.
        problems += [
            f"{CONFIG_FILE}: {re.sub(SETTINGS, lambda place: _kind_at(value, place), line)}"
            for line in validation_problems(error)
        ]
        return None


def _kind_at(record: Mapping[str, Any], place: re.Match[str]) -> str:
    """What a setting's problem is told by: the kind of its part, or the place as it is where that is none."""
    kind = record["parts"][int(place[1])].get("kind")
    return kind if isinstance(kind, str) and kind in KINDS else place[0]


def parse_tensors(
    folder: Folder, name: str, part: PartRecord, config: AdapterConfig, problems: list[str]
) -> dict[str, torch.Tensor]:
    """The tensors of one file of a part, checked against what the config implies.

    Returns:
        Whatever was found in order; only to be used if no problem was added.
    """
    expected = part.shapes(config.base.sizes)[name]
    size = sum(map(prod, expected.values())) * DTYPES[config.dtype].itemsize
    raw = folder.read(name, limit=8 + MOST_HEADER_BYTES + size)
    if raw is None:
        return {}
    digest = hashlib.sha256(raw).hexdigest()
    if digest != config.files[name]:
        problems.append(
            f"{name} was changed after saving: expected SHA-256 {config.files[name]}, got {digest}. "
            "Get the adapter again."
        )
    # A header of 640 bytes begins a safetensors file with 80 02, as a pickle does: its length has five zeros behind.
    pickled = raw[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and any(raw[3:8])
    if raw[:4] == b"PK\x03\x04" or pickled:
        problems.append(f"{name} is a pickle under another name: expected safetensors. It was not opened.")
        return {}
    entries = read_header(raw, name, problems)
    if entries is None:
        return {}
    found = _name_problems(name, set(expected), set(entries))
    for key in expected.keys() & entries.keys():
        found += _entry_problems(name, key, expected[key], entries[key], part, config.dtype)
    try:
        tensors = safetensors.torch.load(raw)
    except Exception as error:  # whatever a parser raises on a stranger's bytes is a refusal
        problems += [*found, f"{name} is not safetensors: {error}."]
        return {}
    found += [
        f"{name}: {key} holds NaN or infinity."
        for key in expected
        if key in tensors and tensors[key].is_floating_point() and not bool(torch.isfinite(tensors[key]).all())
    ]
    problems += shortened(sorted(found), name)
    return tensors


def base_problems(
    config: AdapterConfig, fingerprint: Fingerprint | None, sizes: BaseSizes | None, processor: Mapping[str, Any] | None
) -> list[str]:
    """Differences between the base an adapter was made for and a live one."""
    problems = []
    if sizes is not None:
        for key in BaseSizes.__dataclass_fields__:
            if key == VOCABULARY:
                continue
            problems += difference("other base", key, getattr(config.base.sizes, key), getattr(sizes, key))
    if fingerprint is not None:
        problems += fingerprint_problems(config.base.fingerprint, fingerprint, config.depends_on)
        if len(problems) == 1 and problems[0].startswith(("other base: digest:", f"other base: {LANGUAGE_MODEL}:")):
            problems = [f"{problems[0]} The same sizes but other weights: train an adapter for this base."]
    if processor is not None:
        problems += differences("other processor", config.processor, processor)
    return problems


def _name_problems(file: str, expected: set[str], got: set[str]) -> list[str]:
    problems = [f"{file}: missing tensor {name!r}." for name in expected - got]
    parts = {name.partition(".")[0] for name in expected}
    for name in got - expected:
        prefix = next(
            (one for one in LORA_PLACES if expected and all(known.startswith(one) for known in expected)), None
        )
        if prefix is not None:
            ours = "lora_" in name
            what = "unknown tensor" if name.startswith(prefix) else f"LoRA outside the {LORA_PLACES[prefix]}"
        else:
            ours = name.partition(".")[0] in parts
            what = "unknown tensor"
        problems.append(
            f"{file}: {what if ours else 'not a tensor of an adapter, such as a base weight'}: {quote(name)}."
        )
    return problems


def _entry_problems(file: str, name: str, shape: torch.Size, entry: Entry, part: PartRecord, dtype: str) -> list[str]:
    problems = []
    if entry.shape != tuple(shape):
        problem = f"{file}: {name} has another shape: expected {tuple(shape)}, got {entry.shape}."
        heads = ("head.type_weight", "head.types.weight", "head.level.weight")
        if name in heads and isinstance(part.settings, GuardSettings):
            taxonomy = part.settings.design.taxonomy
            problem += (
                f" The taxonomy does not match the head: {CONFIG_FILE} names {len(taxonomy.types)} risk "
                f"types and {len(taxonomy.levels)} levels."
            )
        problems.append(problem)
    if entry.dtype != DTYPE_NAMES[dtype]:
        problems.append(f"{file}: {name} has another dtype: expected {DTYPE_NAMES[dtype]}, got {entry.dtype}.")
    return problems
