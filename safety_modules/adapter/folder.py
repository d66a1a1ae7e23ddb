"""The adapter folder on disk: write it atomically; on reading check everything and report everything at once.

A stranger's folder either becomes an `Adapter` with exactly the tensors its config implies, or one
AdapterError that lists every problem. Nothing in it is executed, unpickled or followed out of the folder. See
adapter_format.py.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from safety_modules.adapter.checks import (
    MOST_CONFIG_BYTES,
    base_problems,
    check_json,
    parse_config,
    parse_tensors,
)
from safety_modules.adapter.files import Folder, write_folder
from safety_modules.adapter.format import (
    CONFIG_FILE,
    DTYPES,
    FORMAT,
    FORMAT_VERSION,
    LORA_CONFIG_FILE,
    LORA_FILE,
    SAFETY_FILE,
    AdapterConfig,
    lora_shapes,
    peft_config,
    safety_shapes,
)
from safety_modules.backbones import Backbone
from safety_modules.backbones.bases import LORA_PREFIX
from safety_modules.backbones.fingerprint import Fingerprint
from safety_modules.config import BaseSizes
from safety_modules.defences.base import Defence
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import AdapterError
from safety_modules.io.strict import without_controls
from safety_modules.policy.policy import Rule
from safety_modules.version import __version__

LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Adapter:
    """An adapter that passed every check.

    Attributes:
        path: the folder it came from.
        config: adapter_config.json.
        tensors: state dict of the SafetyModules, in the dtype on disk.
        lora_tensors: state dict of the Lora, named as inside the language model
            ("layers.0.self_attn.q_proj.lora_A.weight"), in the dtype on disk; empty without a LoRA.
    """

    path: Path
    config: AdapterConfig
    tensors: dict[str, torch.Tensor]
    lora_tensors: dict[str, torch.Tensor]

    @property
    def kinds(self) -> list[str]:
        """Of its parts, in order."""
        return [Guard.kind]

    @property
    def guard(self) -> GuardSettings:
        """The guard's settings."""
        config = self.config
        return GuardSettings(
            design=config.safety, thresholds=config.thresholds, temperature=config.temperature, rules=config.rules
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of its tensors on disk."""
        return DTYPES[self.config.dtype]

    @property
    def megabytes(self) -> float:
        """Of its files, in MB (10^6 bytes)."""
        files = (CONFIG_FILE, SAFETY_FILE, LORA_CONFIG_FILE, LORA_FILE)
        return sum((self.path / name).stat().st_size for name in files if (self.path / name).is_file()) / 1e6

    def check_base(
        self,
        fingerprint: Fingerprint | None = None,
        sizes: BaseSizes | None = None,
        processor: Mapping[str, Any] | None = None,
    ) -> None:
        """Refuse another base.

        Raises:
            AdapterError: naming every difference.
        """
        problems = base_problems(self.config, fingerprint, sizes, processor)
        if problems:
            raise AdapterError(self.path, problems)

    def fitted(self, backbone: Backbone) -> list[Defence]:
        """Its defences on a base, trained.

        Raises:
            AttachError: a LoRA finds no place.
        """
        guard = Guard(backbone, self.guard)
        self.load_into(guard)
        guard.trained = True
        return [guard]

    def load_into(self, guard: Any) -> None:
        """Copy the tensors into what has `modules` and `lora` made with this adapter's config, casting to its dtypes.

        Raises:
            AdapterError: the modules have another design or other sizes; nothing was copied.
        """
        lora = {} if guard.lora is None else guard.lora.state_dict()
        problems = []
        for what, live, own in (
            ("modules", guard.modules.state_dict(), self.tensors),
            ("LoRA", lora, self.lora_tensors),
        ):
            if {name: t.shape for name, t in live.items()} != {name: t.shape for name, t in own.items()}:
                problems.append(
                    f"other {what}: expected the adapter's names and shapes, got others. "
                    "Attach with adapter.config.safety to the base it was made for."
                )
        if problems:
            raise AdapterError(self.path, problems)
        guard.modules.load_state_dict(self.tensors)
        if self.lora_tensors:
            guard.lora.load_state_dict(self.lora_tensors)


def read_adapter(
    directory: str | PathLike[str],
    *,
    fingerprint: Fingerprint | None = None,
    sizes: BaseSizes | None = None,
    processor: Mapping[str, Any] | None = None,
) -> Adapter:
    """Read an adapter folder and check all of it before anything is used.

    Args:
        directory: the folder; its files must be real files, not links, except in huggingface_hub's cache.
        fingerprint: the live base's, or a function that gives it by the version of its digest (a backbone's
            `fingerprint`); given, it must equal the adapter's key by key.
        sizes: the live base's; given, they must equal the adapter's.
        processor: the live processor's settings that change pixels; given, they must equal the adapter's.

    Raises:
        AdapterError: listing every problem: missing, truncated, renamed or linked files, unknown keys, a
            newer format, a digest that does not match, tensors missing, unknown, mis-shaped, of another
            dtype, NaN or infinite, LoRA outside the language model, a taxonomy that does not match the head,
            another base.

    Does not cover: whether the adapter is any good, or well meant. A well-formed adapter can still be trained
    to call everything clean; take adapters from people you trust and evaluate them.
    """
    folder = Folder(Path(directory))
    problems = folder.problems
    config = None
    if not problems:
        raw = folder.read(CONFIG_FILE, limit=MOST_CONFIG_BYTES)
        config = None if raw is None else parse_config(raw, problems)
    if config is None:
        raise _refused(directory, problems)

    tensors = parse_tensors(folder, SAFETY_FILE, config, safety_shapes(config.safety, config.base.sizes), problems)
    lora_tensors: dict[str, torch.Tensor] = {}
    if config.safety.lora:
        shapes = lora_shapes(config.safety.lora, config.base.sizes)
        named = {LORA_PREFIX + name: shape for name, shape in shapes.items()}
        on_disk = parse_tensors(folder, LORA_FILE, config, named, problems)
        lora_tensors = {name.removeprefix(LORA_PREFIX): tensor for name, tensor in on_disk.items()}
        check_json(folder, LORA_CONFIG_FILE, peft_config(config.safety.lora), problems)
    problems += base_problems(config, fingerprint, sizes, processor)
    if problems:
        raise _refused(directory, problems)
    return Adapter(Path(directory), config, tensors, lora_tensors)


def _refused(directory: str | PathLike[str], problems: list[str]) -> AdapterError:
    return AdapterError(directory, [without_controls(problem) for problem in problems])


def save_adapter(
    directory: str | PathLike[str],
    *,
    modules: SafetyModules,
    fingerprint: Mapping[str, Any],
    thresholds: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    rules: Mapping[str, Rule] | None = None,
    processor: Mapping[str, Any] | None = None,
    lora_tensors: Mapping[str, torch.Tensor] | None = None,
    dtype: str = "float16",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write an adapter folder, all of it or nothing.

    It is written beside the target, read back with every check of `read_adapter`, then renamed into place. An
    older adapter there is replaced; files in it that are not the adapter's (a README) are kept. A reader
    meanwhile finds the old adapter, for an instant none, or the new one, never a mixture.

    Args:
        directory: the target: a new folder, an empty one, one with only a card (*.md), or an older adapter.
        modules: the trained modules; their `config` and `sizes` are recorded.
        fingerprint: the base's, from the backbone; plain JSON types.
        thresholds: calibrated threshold of every risk type; None = not calibrated.
        temperature: the types' logits are divided by it.
        rules: of types that the adapter brings a rule for.
        processor: image processor settings that change pixels.
        lora_tensors: state dict of the Lora; required exactly if the config has a LoRA.
        dtype: float16 (default: half the size; each value is rounded once, by at most 0.05 %, and saving what
            was loaded changes nothing more), bfloat16 (0.4 %), or float32 (exact). Probabilities move in the
            fourth digit or so: calibrate thresholds on the loaded adapter where that matters.
        metadata: plain JSON, kept as it is.

    Returns:
        The folder.

    Raises:
        AdapterError: what would be written is not a valid adapter (NaN, overflow in float16, a missing
            tensor, thresholds of another taxonomy), or the target holds something else. Nothing is left
            behind.
    """
    target = Path(directory)
    if dtype not in DTYPES:
        raise AdapterError(target, [f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}."])
    config = modules.config
    files = {SAFETY_FILE: _pack(modules.state_dict(), dtype)}
    if lora_tensors:
        files[LORA_FILE] = _pack({LORA_PREFIX + name: t for name, t in lora_tensors.items()}, dtype)
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "safety": config.model_dump(mode="json"),
        "base": {"fingerprint": dict(fingerprint), "sizes": asdict(modules.sizes)},
        "thresholds": dict(thresholds or {}),
        "temperature": temperature,
        "rules": {name: rule.model_dump(mode="json") for name, rule in (rules or {}).items()},
        "processor": dict(processor or {}),
        "dtype": dtype,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "versions": _versions(),
        "metadata": dict(metadata or {}),
    }
    files[CONFIG_FILE] = _json(record, target)
    if config.lora:
        files[LORA_CONFIG_FILE] = _json(peft_config(config.lora), target)

    write_folder(target, files, check=read_adapter)
    return target


def _pack(tensors: Mapping[str, torch.Tensor], dtype: str) -> bytes:
    # clone: safetensors refuses tensors that share memory
    cast = {name: t.detach().to("cpu", DTYPES[dtype]).clone().contiguous() for name, t in tensors.items()}
    return safetensors.torch.save(cast, metadata={"format": "pt"})


def _versions() -> dict[str, str]:
    found = {"safety-modules": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _json(value: Mapping[str, Any], target: Path) -> bytes:
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise AdapterError(
            target, [f"fingerprint, processor, thresholds and metadata must be JSON: {error}."]
        ) from error
