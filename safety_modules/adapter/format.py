"""The adapter folder's format, version 6: which files, which keys, which tensors. No reading or writing here.

    adapter_config.json              AdapterConfig, human readable
    <kind>.safetensors               the tensors of a part's modules; a guard's: safety.safetensors
    <kind>-lora/                     LoRA on the language model, or projector, that belongs to a part; a guard's: lora/
        adapter_config.json          exactly `peft_config(settings)`: plain peft loads it
        adapter_model.safetensors    in peft's own key layout

Other files in the folder (README.md, reports) are the owner's and never read. The folder holds no code, no
pickle and no base weight.
"""

import json
from collections.abc import Iterator
from math import prod
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from safety_modules.backbones.bases import LORA_PREFIX, PROJECTOR_LINEARS, PROJECTOR_PREFIX, lora_targets
from safety_modules.config import BaseSizes, LoraSettings, Sparse
from safety_modules.defences.base import Defence, Settings, check_order
from safety_modules.defences.guard.guard import GuardSettings
from safety_modules.defences.registry import KINDS
from safety_modules.errors import ConfigError

FORMAT = "safety-modules-adapter"
FORMAT_VERSION = 6
SINCE_6 = ("reading", "words")
"""Of a guard's `query`: what no version before 6 knows."""

CONFIG_FILE = "adapter_config.json"
DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

MOST_TENSOR_BYTES = 16_000_000_000
"""Of all tensors a config implies; far above any real adapter (`paper` on a 13B: under 5 GB in float32)."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def tensor_file(kind: str) -> str:
    """Where the tensors of a part's modules are."""
    return "safety.safetensors" if kind == "guard" else f"{kind}.safetensors"


def lora_files(kind: str) -> tuple[str, str]:
    """Where a part's LoRA is: peft's configuration, and the tensors."""
    folder = "lora" if kind == "guard" else f"{kind}-lora"
    return f"{folder}/adapter_config.json", f"{folder}/adapter_model.safetensors"


def format_files() -> list[str]:
    """Every file that the format has, of whatever kind of part."""
    return [CONFIG_FILE, *(file for kind in KINDS for file in (tensor_file(kind), *lora_files(kind)))]


class BaseRecord(BaseModel):
    """The base an adapter was made for.

    Args:
        fingerprint: what the backbone says about the base: architecture, digests of its weights.
        sizes: the base's sizes; the shapes of all tensors follow from them and the parts' settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: dict[str, JsonValue]
    sizes: BaseSizes


class PartRecord(BaseModel):
    """One defence of an adapter.

    Args:
        kind: one of `defences.registry.KINDS`.
        settings: of this kind, every key of them.
        depends_on: the base's weights that have to be those it was made for (see `Defence.depends_on`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    settings: Settings
    depends_on: tuple[str, ...]

    @property
    def defence(self) -> type[Defence]:
        """The class of this kind."""
        return KINDS[self.kind]

    def shapes(self, sizes: BaseSizes) -> dict[str, dict[str, torch.Size]]:
        """Name and shape of every tensor, by file.

        Raises:
            ConfigError: the settings do not fit the base.
            ValueError: a LoRA's target is not among the base's linears.
        """
        files = {tensor_file(self.kind): self.defence.shapes(self.settings, sizes)}
        if self.settings.lora_settings is not None:
            named, prefix = shapes_of_lora(self.settings, sizes), lora_prefix(self.settings)
            files[lora_files(self.kind)[1]] = {prefix + name: shape for name, shape in named.items()}
        return {file: shapes for file, shapes in files.items() if shapes}

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"unknown kind of defence: expected one of {', '.join(KINDS)}. Upgrade safety-modules")
        return kind

    @field_validator("settings", mode="plain")
    @classmethod
    def _of_their_kind(cls, value: Any, info: ValidationInfo) -> Settings:
        if isinstance(value, Settings) or "kind" not in info.data:
            return value
        if not isinstance(value, dict) or "kind" in value:
            raise ValueError("expected an object of settings without their kind")
        # From the text, strictly: "8" is not 8, and a list is a tuple only where JSON has no tuples.
        settings = KINDS[info.data["kind"]].settings_type.model_validate_json(json.dumps(value), strict=True)
        if missing := [name for name in _left_out(settings) if name != ("kind",)]:
            raise ValidationError.from_exception_data(
                "settings", [{"type": "missing", "loc": name, "input": None} for name in missing]
            )
        return settings

    @model_validator(mode="after")
    def _depends(self) -> "PartRecord":
        expected = self.defence.depends_on(self.settings)
        if self.depends_on != expected:
            raise ValueError(f"depends_on of {self.kind} does not match its settings: expected {list(expected)}")
        return self


def _left_out(model: BaseModel) -> Iterator[tuple[str, ...]]:
    """Keys of a model, and of models in it, that have their default and may not be missing."""
    optional = model.optional if isinstance(model, Sparse) else ()
    for name in type(model).model_fields:
        value = getattr(model, name)
        if name not in model.model_fields_set:
            if name not in optional:
                yield (name,)
        elif isinstance(value, BaseModel):
            yield from ((name, *inner) for inner in _left_out(value))


class Keys(BaseModel):
    """The keys of adapter_config.json that every version has.

    Args:
        format: always `safety-modules-adapter`.
        format_version: version of this layout; a reader refuses newer ones.
        base: the base the adapter was made for.
        processor: image processor settings that change pixels.
        dtype: of every tensor in all tensor files.
        files: SHA-256 of each tensor file.
        versions: library versions at saving; information only.
        metadata: anything worth keeping, such as how it was trained; information only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["safety-modules-adapter"]
    format_version: Annotated[int, Field(ge=1, le=FORMAT_VERSION)]  # a Literal would take true for 1
    base: BaseRecord
    processor: dict[str, JsonValue]
    dtype: Literal["float16", "bfloat16", "float32"]
    files: dict[str, Sha256]
    versions: dict[str, str]
    metadata: dict[str, JsonValue]


class AdapterConfig(Keys):
    """adapter_config.json.

    Args:
        parts: the adapter's defences, the outermost first.
    """

    parts: tuple[PartRecord, ...]

    @property
    def depends_on(self) -> set[str]:
        """The base's weights that any part depends on."""
        return {what for part in self.parts for what in part.depends_on}

    @model_validator(mode="after")
    def _consistent(self) -> "AdapterConfig":
        if not self.parts:
            raise ValueError("no parts: expected at least one defence")
        designs = [part.settings.design for part in self.parts if isinstance(part.settings, GuardSettings)]
        for design in designs:
            if design.query in SINCE_6 and self.format_version < 6:
                raise ValueError(f"format_version {self.format_version} does not know the query {design.query!r}")
            new = [name for name in ("outside", "views") if getattr(design, name) is not None]
            if new and self.format_version < 6:
                raise ValueError(f"format_version {self.format_version} does not know the key 'design.{new[0]}'")
        try:
            check_order([part.defence for part in self.parts])
            files = [file for part in self.parts for file in part.shapes(self.base.sizes).items()]
        except ConfigError as error:
            raise ValueError(str(error)) from error
        for name in self.files:
            if name not in format_files():
                raise ValueError(f"files names a path outside the format: {name!r}")
        expected = sorted(file for file, _ in files)
        if sorted(self.files) != expected:
            raise ValueError(f"files do not match the designs of the parts: expected {expected}, got {[*self.files]}")
        size = sum(prod(shape) for _, shapes in files for shape in shapes.values()) * DTYPES[self.dtype].itemsize
        if size > MOST_TENSOR_BYTES:
            raise ValueError(f"the design is too large: expected at most {MOST_TENSOR_BYTES} bytes, got {size}")
        return self


def lora_shapes(lora: LoraSettings, sizes: BaseSizes) -> dict[str, torch.Size]:
    """Name inside the language model and shape of every LoRA tensor.

    Raises:
        ValueError: a target module is not among the linear layers of the base.
    """
    names = {path.rpartition(".")[2] for path, _, _ in sizes.linears}
    unknown = [target for target in lora.target_modules if target not in names]
    if unknown:
        raise ValueError(f"LoRA targets are not in the language model: expected some of {sorted(names)}, got {unknown}")
    shapes = {}
    for layer in range(sizes.num_layers):
        for path, inputs, outputs in sizes.linears:
            if path.rpartition(".")[2] in lora.target_modules:
                shapes[f"layers.{layer}.{path}.lora_A.weight"] = torch.Size((lora.r, inputs))
                shapes[f"layers.{layer}.{path}.lora_B.weight"] = torch.Size((outputs, lora.r))
    return shapes


def projector_shapes(lora: LoraSettings, sizes: BaseSizes) -> dict[str, torch.Size]:
    """Name inside the projector, two linears with the language model's width between, and shape of every LoRA tensor.

    Raises:
        ValueError: a target module is not one of the two.
    """
    if unknown := [target for target in lora.target_modules if target not in PROJECTOR_LINEARS]:
        raise ValueError(f"LoRA targets are not in the projector: expected some of {PROJECTOR_LINEARS}, got {unknown}")
    shapes = {}
    for name in lora.target_modules:
        inputs = sizes.vision_width if name == PROJECTOR_LINEARS[0] else sizes.text_width
        shapes[f"{name}.lora_A.weight"] = torch.Size((lora.r, inputs))
        shapes[f"{name}.lora_B.weight"] = torch.Size((sizes.text_width, lora.r))
    return shapes


def shapes_of_lora(settings: Settings, sizes: BaseSizes) -> dict[str, torch.Size]:
    """Name inside what it is on and shape of every tensor of a defence's LoRA; none without one.

    Raises:
        ValueError: a target module is not there.
    """
    lora = settings.lora_settings
    if lora is None:
        return {}
    return projector_shapes(lora, sizes) if settings.lora_on_projector else lora_shapes(lora, sizes)


def lora_prefix(settings: Settings) -> str:
    """What stands before these names in the file."""
    return PROJECTOR_PREFIX if settings.lora_on_projector else LORA_PREFIX


def peft_config(lora: LoraSettings, projector: bool = False) -> dict[str, Any]:
    """adapter_config.json of a LoRA: the few keys that matter, so that any version of peft reads it."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "target_modules": lora_targets(lora.target_modules, projector),
    }
