"""The adapter folder on disk: write it atomically; on reading check everything and report everything at once.

A stranger's folder either becomes an `Adapter` with exactly the tensors its config implies, or one
AdapterError that lists every problem. Nothing in it is executed, unpickled or followed out of the folder. See
format.py.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from safety_modules.adapter.checks import MOST_CONFIG_BYTES, base_problems, check_json, parse_config, parse_tensors
from safety_modules.adapter.files import Folder, write_folder
from safety_modules.adapter.format import (
    CONFIG_FILE,
    DTYPES,
    FORMAT,
    FORMAT_VERSION,
    AdapterConfig,
    lora_files,
    lora_prefix,
    peft_config,
    tensor_file,
)
from safety_modules.backbones import Backbone
from safety_modules.backbones.fingerprint import Fingerprint
from safety_modules.config import BaseSizes
from safety_modules.defences.base import Defence, Settings
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.registry import KINDS
from safety_modules.errors import AdapterError
from safety_modules.io.strict import without_controls
from safety_modules.version import __version__

LIBRARIES = ("torch", "transformers", "peft")


class AdapterPart(NamedTuple):
    """One defence of an adapter.

    Attributes:
        kind: of the defence.
        settings: of this kind.
        tensors: state dict of its modules, in the dtype on disk.
        lora_tensors: state dict of its Lora, named as inside the language model or the projector
            ("layers.0.self_attn.q_proj.lora_A.weight"), in the dtype on disk; empty without a LoRA.
    """

    kind: str
    settings: Settings
    tensors: dict[str, torch.Tensor]
    lora_tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Adapter:
    """An adapter that passed every check.

    Attributes:
        path: the folder it came from.
        config: adapter_config.json.
        parts: its defences, the outermost first.
    """

    path: Path
    config: AdapterConfig
    parts: tuple[AdapterPart, ...]

    @property
    def kinds(self) -> list[str]:
        """Of its parts, in order."""
        return [part.kind for part in self.parts]

    def part(self, kind: str) -> AdapterPart:
        """Its part of this kind. Raises AdapterError where there is none."""
        for part in self.parts:
            if part.kind == kind:
                return part
        raise AdapterError(
            self.path, [f"no {kind}: expected an adapter that has one, got {', '.join(self.kinds)}. Name another."]
        )

    @property
    def guard(self) -> GuardSettings:
        """Its guard's settings. Raises AdapterError where it has none."""
        settings = self.part(Guard.kind).settings
        assert isinstance(settings, GuardSettings)
        return settings

    @property
    def dtype(self) -> torch.dtype:
        """Of its tensors on disk."""
        return DTYPES[self.config.dtype]

    @property
    def megabytes(self) -> float:
        """Of its files, in MB (10^6 bytes)."""
        own = [name for part in self.parts for name in (tensor_file(part.kind), *lora_files(part.kind))]
        files = (self.path / name for name in (CONFIG_FILE, *own))
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6

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
        defences = [KINDS[part.kind](backbone, part.settings) for part in self.parts]
        self.load_into(defences)
        for defence in defences:
            defence.trained = True
        return defences

    def load_into(self, defences: Sequence[Defence]) -> None:
        """Copy the tensors into defences of the same kinds and settings, casting to their dtypes.

        Raises:
            AdapterError: one is missing, or has another design or other sizes; nothing was copied.
        """
        by_kind = {defence.kind: defence for defence in defences}
        problems, loads = list[str](), list[tuple[Any, dict[str, torch.Tensor]]]()
        for part in self.parts:
            live = by_kind.get(part.kind)
            for what, owner, own in (
                ("modules", getattr(live, "modules", None), part.tensors),
                ("LoRA", getattr(live, "lora", None), part.lora_tensors),
            ):
                has = {} if owner is None else {name: tensor.shape for name, tensor in owner.state_dict().items()}
                if has != {name: tensor.shape for name, tensor in own.items()}:
                    problems.append(
                        f"other {what}: expected the adapter's names and shapes, got others. Attach a {part.kind} with "
                        "the adapter's settings to the base it was made for."
                    )
                elif owner is not None:
                    loads.append((owner, own))
        if problems:
            raise AdapterError(self.path, problems)
        for owner, own in loads:
            owner.load_state_dict(own)


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

    parts = []
    for part in config.parts:
        found = {name: parse_tensors(folder, name, part, config, problems) for name in part.shapes(config.base.sizes)}
        peft_file, lora_file = lora_files(part.kind)
        if part.settings.lora_settings is not None:
            expected = peft_config(part.settings.lora_settings, part.settings.lora_on_projector)
            check_json(folder, peft_file, expected, problems)
        prefix = lora_prefix(part.settings)
        lora = {name.removeprefix(prefix): tensor for name, tensor in found.get(lora_file, {}).items()}
        parts.append(AdapterPart(part.kind, part.settings, found.get(tensor_file(part.kind), {}), lora))
    problems += base_problems(config, fingerprint, sizes, processor)
    if problems:
        raise _refused(directory, problems)
    return Adapter(Path(directory), config, tuple(parts))


def _refused(directory: str | PathLike[str], problems: list[str]) -> AdapterError:
    return AdapterError(directory, [without_controls(problem) for problem in problems])


def save_adapter(
    directory: str | PathLike[str],
    defences: Sequence[Defence],
    *,
    fingerprint: Mapping[str, Any],
    sizes: BaseSizes,
    processor: Mapping[str, Any] | None = None,
    dtype: str = "float16",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write an adapter folder, all of it or nothing.

    It is written beside the target, read back with every check of `read_adapter`, then renamed into place. An
    older adapter there is replaced; files in it that are not the adapter's (a README) are kept. A reader
    meanwhile finds the old adapter, for an instant none, or the new one, never a mixture.

    Args:
        directory: the target: a new folder, an empty one, one with only a card (*.md), or an older adapter.
        defences: trained, the outermost first; of each its settings as they are now, its modules and its LoRA.
        fingerprint: the base's, from the backbone; plain JSON types.
        sizes: the base's.
        processor: image processor settings that change pixels.
        dtype: float16 (default: half the size; each value is rounded once, by at most 0.05 %, and saving what
            was loaded changes nothing more), bfloat16 (0.4 %), or float32 (exact). Probabilities move in the
            fourth digit or so: calibrate thresholds on the loaded adapter where that matters.
        metadata: plain JSON, kept as it is.

    Returns:
        The folder.

    Raises:
        AdapterError: what would be written is not a valid adapter (NaN, overflow in float16, a missing
            tensor, thresholds of another taxonomy, defences that are no order), or the target holds something
            else. Nothing is left behind.
    """
    target = Path(directory)
    if dtype not in DTYPES:
        raise AdapterError(target, [f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}."])
    tensors: dict[str, bytes] = {}
    configs: dict[str, bytes] = {}
    parts = []
    for defence in defences:
        settings, (peft_file, lora_file) = defence.current_settings(), lora_files(defence.kind)
        parts.append(
            {
                "kind": defence.kind,
                "settings": settings.model_dump(mode="json", exclude={"kind"}),
                "depends_on": defence.depends_on(settings),
            }
        )
        if defence.modules is not None:
            tensors[tensor_file(defence.kind)] = _pack(defence.modules.state_dict(), dtype)
        if defence.lora is not None:
            prefix = lora_prefix(settings)
            named = {prefix + name: tensor for name, tensor in defence.lora.state_dict().items()}
            tensors[lora_file] = _pack(named, dtype)
        if settings.lora_settings is not None:
            config = peft_config(settings.lora_settings, settings.lora_on_projector)
            configs[peft_file] = _json(config, target)
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "parts": parts,
        "base": {"fingerprint": dict(fingerprint), "sizes": _sizes(sizes)},
        "processor": dict(processor or {}),
        "dtype": dtype,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in tensors.items()},
        "versions": _versions(),
        "metadata": dict(metadata or {}),
    }
    write_folder(target, {**tensors, **configs, CONFIG_FILE: _json(record, target)}, check=read_adapter)
    return target


def _sizes(sizes: BaseSizes) -> dict[str, Any]:
    """As they are written: without `tile` where there is none, so that older versions read it too."""
    return {name: value for name, value in asdict(sizes).items() if name != "tile" or value is not None}


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
        raise AdapterError(target, [f"fingerprint, processor, settings and metadata must be JSON: {error}."]) from error
