"""Weights of competitors on disk: `system.json` and `weights.safetensors`, written whole, checked when read."""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError

from safety_modules.adapter.checks import Fingerprint, fingerprint_problems
from safety_modules.errors import AdapterError, validation_problems
from safety_modules.io.files import write_whole

RECORD, TENSORS = "system.json", "weights.safetensors"


class Record(BaseModel):
    """system.json.

    Attributes:
        system: whose weights these are.
        base: fingerprint of the base they were trained on.
        settings: of the system.
        sha256: of the tensors' file.
        metadata: how it was trained; information only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    base: dict[str, JsonValue]
    settings: dict[str, JsonValue]
    sha256: str
    metadata: dict[str, JsonValue] = {}


class Weights(NamedTuple):
    """What a folder holds; megabytes of 10^6 bytes."""

    record: Record
    tensors: dict[str, torch.Tensor]
    megabytes: float


def write_weights(
    folder: str | PathLike[str],
    system: str,
    base: Mapping[str, Any],
    settings: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder; it counts once `system.json`, which comes last, is there. Tensors are kept in float16.

    Args:
        folder: the target.
        system: whose weights these are.
        base: fingerprint of the base.
        settings: plain JSON types.
        tensors: by name.
        metadata: plain JSON types.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save({n: t.detach().to("cpu", torch.float16).contiguous() for n, t in tensors.items()})
    record = Record(
        system=system,
        base=dict(base),
        settings=dict(settings),
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=dict(metadata or {}),
    )
    write_whole(target / TENSORS, lambda file: file.write(data))
    text = record.model_dump_json(indent=1) + "\n"
    write_whole(target / RECORD, lambda file: file.write(text.encode()))
    return target


def read_weights(folder: str | PathLike[str], system: str, base: Fingerprint) -> Weights:
    """Read a folder and check it.

    Args:
        folder: from `write_weights`.
        system: whose weights are expected.
        base: fingerprint of the live base, or a function that gives it (see `read_adapter`).

    Raises:
        AdapterError: files missing, damaged, of another system or for another base, or numbers that are none.
    """
    target = Path(folder)
    try:
        record = Record.model_validate(json.loads((target / RECORD).read_bytes()))
        data = (target / TENSORS).read_bytes()
    except ValidationError as error:
        raise AdapterError(target, [f"{RECORD}: {line}" for line in validation_problems(error)]) from error
    except (OSError, ValueError) as error:
        raise AdapterError(target, [f"expected {RECORD} and {TENSORS}, got {error}. {training(system)}"]) from error
    problems = []
    if record.system != system:
        problems.append(f"expected weights of {system}, got those of {record.system}. Name another folder.")
    if hashlib.sha256(data).hexdigest() != record.sha256:
        problems.append(f"{TENSORS} damaged: expected the digest in {RECORD}, got another. {training(system)}")
    problems += fingerprint_problems(record.base, base, lora=True)
    if problems:
        raise AdapterError(target, problems)
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise AdapterError(target, [f"{TENSORS}: expected safetensors, got {error}. {training(system)}"]) from error
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise AdapterError(target, [f"{name}: expected finite numbers, got NaN or infinity." for name in bad])
    size = sum((target / name).stat().st_size for name in (RECORD, TENSORS))
    return Weights(record, tensors, size / 1e6)


def check_names(folder: object, wanted: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors of other names or shapes. Raises AdapterError naming every one."""
    problems = [f"tensor missing: {name}." for name in wanted if name not in got]
    problems += [f"tensor unknown: {name}." for name in got if name not in wanted]
    problems += [
        f"tensor {name}: expected shape {tuple(wanted[name].shape)}, got {tuple(tensor.shape)}."
        for name, tensor in got.items()
        if name in wanted and wanted[name].shape != tensor.shape
    ]
    if problems:
        raise AdapterError(folder, problems)


def training(system: str) -> str:
    """How to get a system's weights."""
    return f"Train it: python benchmarks/comparison.py train --out DIR --only {system}."
