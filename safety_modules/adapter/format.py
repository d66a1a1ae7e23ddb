"""The adapter folder's format, version 4: which files, which keys, which tensors. No reading or writing here.

    adapter_config.json              AdapterConfig, human readable
    safety.safetensors               the state dict of SafetyModules
    lora/adapter_config.json         exactly `peft_config(settings)`: plain peft loads it
    lora/adapter_model.safetensors   LoRA on the language model, peft's own key layout

Other files in the folder (README.md, reports) are the owner's and never read. The folder holds no code, no
pickle and no base weight.
"""

from math import prod
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from safety_modules.backbones.bases import lora_targets
from safety_modules.config import BaseSizes, LoraSettings, SafetyConfig
from safety_modules.defences.guard.guard import Temperature, Threshold, thresholds_problem
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import ConfigError
from safety_modules.policy.policy import Rule
from safety_modules.policy.scores import log_odds

FORMAT = "safety-modules-adapter"
FORMAT_VERSION = 4
OLDEST_VERSION = 1

CONFIG_FILE = "adapter_config.json"
SAFETY_FILE = "safety.safetensors"
LORA_CONFIG_FILE = "lora/adapter_config.json"
LORA_FILE = "lora/adapter_model.safetensors"

DTYPES: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}

MOST_TENSOR_BYTES = 16_000_000_000
"""Of all tensors a config implies; far above any real adapter (`paper` on a 13B: under 5 GB in float32)."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

SINCE_VERSION_2 = ("temperature", "rules")
SURE = 1 - 2**-24
"""The most that a probability in float32 differs from 1: what a threshold of 1 meant before version 4."""
MOST_RULE_CHARACTERS = 500
"""Of each sentence of a rule: it becomes part of prompts and answers."""


class BaseRecord(BaseModel):
    """The base an adapter was made for.

    Args:
        fingerprint: what the backbone says about the base: architecture, digests of a few tensors.
        sizes: the base's sizes; the shapes of all tensors follow from them and the SafetyConfig.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: dict[str, JsonValue]
    sizes: BaseSizes


class AdapterConfig(BaseModel):
    """adapter_config.json.

    Args:
        format: always `safety-modules-adapter`.
        format_version: version of this layout; a reader refuses newer ones.
        safety: the design of the modules and of the LoRA.
        base: the base the adapter was made for.
        thresholds: calibrated threshold per risk type, a log-odds; empty = not calibrated. Only types that were added
            after the first training may be missing. Before version 4 a threshold was a probability; it is turned into
            the log-odds with the same meaning when read.
        temperature: the types' logits are divided by it; 1 = as trained.
        rules: the policy's rule for types the adapter brings along; used where the user's policy has none.
        processor: image processor settings that change pixels.
        dtype: of every tensor in both tensor files.
        files: SHA-256 of each tensor file.
        versions: library versions at saving; information only.
        metadata: anything worth keeping, such as how it was trained; information only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["safety-modules-adapter"]
    format_version: Annotated[int, Field(ge=OLDEST_VERSION, le=FORMAT_VERSION)]  # a Literal would take true for 1
    safety: SafetyConfig
    base: BaseRecord
    thresholds: dict[str, Threshold]
    temperature: Temperature = 1.0
    rules: dict[str, Rule] = {}
    processor: dict[str, JsonValue]
    dtype: Literal["float16", "bfloat16", "float32"]
    files: dict[str, Sha256]
    versions: dict[str, str]
    metadata: dict[str, JsonValue]

    @model_validator(mode="after")
    def _keys_of_the_version(self) -> "AdapterConfig":
        if self.format_version == 1 and self.safety.added:
            raise ValueError("format_version 1 does not know the key 'safety.added'")
        for name in SINCE_VERSION_2:
            if self.format_version == 1 and name in self.model_fields_set:
                raise ValueError(f"format_version 1 does not know the key {name!r}")
            if self.format_version > 1 and name not in self.model_fields_set:
                raise ValueError(f"format_version {self.format_version} needs the key {name!r}")
        known = "ensemble" in self.safety.model_fields_set
        if self.format_version < 3 and known:
            raise ValueError(f"format_version {self.format_version} does not know the key 'safety.ensemble'")
        if self.format_version >= 3 and not known:
            raise ValueError(f"format_version {self.format_version} needs the key 'safety.ensemble'")
        # There was one set before there was a word for it.
        return self if known else self.model_copy(update={"safety": self.safety.model_copy(update={"ensemble": 1})})

    @model_validator(mode="after")
    def _thresholds_as_log_odds(self) -> "AdapterConfig":
        if self.format_version >= 4:
            return self
        own = {name: rule.threshold for name, rule in self.rules.items() if rule.threshold is not None}
        for name, value in (*self.thresholds.items(), *own.items()):
            if not 0 <= value <= 1:
                raise ValueError(f"the threshold of {name[:80]!r} is not a probability: {value}")
        thresholds = {name: self._score(name, value) for name, value in self.thresholds.items()}
        rules = {
            name: rule.model_copy(update={"threshold": self._score(name, own[name])}) if name in own else rule
            for name, rule in self.rules.items()
        }
        return self.model_copy(update={"thresholds": thresholds, "rules": rules})

    def _score(self, name: str, probability: float) -> float:
        """The log-odds of a threshold; a branch's were divided by the temperature then, and are not now."""
        score = log_odds(min(probability, SURE))
        return score * self.temperature if name in self.safety.added else score

    @model_validator(mode="after")
    def _rules_fit(self) -> "AdapterConfig":
        taxonomy = self.safety.taxonomy
        for name, rule in self.rules.items():
            if name not in taxonomy.types:
                raise ValueError(f"rules name a type outside the taxonomy: {name[:80]!r}")
            unknown = [level for level in rule.wording if level not in taxonomy.levels]
            if unknown:
                raise ValueError(f"the rule of {name} has words for an unknown level: {unknown[0][:80]!r}")
            for text in (rule.title or "", rule.reason, rule.refusal or "", *rule.wording.values()):
                if len(text) > MOST_RULE_CHARACTERS or not text.isprintable():
                    raise ValueError(
                        f"the rule of {name} has words that cannot be used: expected at most {MOST_RULE_CHARACTERS} "
                        "printable characters on one line"
                    )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "AdapterConfig":
        problem = thresholds_problem(self.safety, self.thresholds)
        if problem:
            raise ValueError(problem)
        for name in self.files:
            if name not in (SAFETY_FILE, LORA_FILE):
                raise ValueError(f"files names a path outside the format: {name!r}")
        expected = {SAFETY_FILE, LORA_FILE} if self.safety.lora else {SAFETY_FILE}
        if set(self.files) != expected:
            raise ValueError(f"files do not match the design: expected {sorted(expected)}, got {sorted(self.files)}")
        try:
            shapes = list(safety_shapes(self.safety, self.base.sizes).values())
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if self.safety.lora:
            shapes += lora_shapes(self.safety.lora, self.base.sizes).values()
        size = sum(map(prod, shapes)) * DTYPES[self.dtype].itemsize
        if size > MOST_TENSOR_BYTES:
            raise ValueError(f"the design is too large: expected at most {MOST_TENSOR_BYTES} bytes, got {size}")
        return self


def safety_shapes(config: SafetyConfig, sizes: BaseSizes) -> dict[str, torch.Size]:
    """Name and shape of every tensor of the safety modules, from the design alone (meta device)."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in SafetyModules(config, sizes).state_dict().items()}


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


def peft_config(lora: LoraSettings) -> dict[str, Any]:
    """lora/adapter_config.json: the few keys that matter, so that any version of peft reads it."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "target_modules": lora_targets(lora.target_modules),
    }
