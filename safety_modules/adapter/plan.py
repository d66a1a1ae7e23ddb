"""How large a set of safety modules will be on a base, before anything is made (meta device, no memory)."""

from dataclasses import dataclass
from math import prod

from safety_modules.adapter.format import DTYPES, lora_shapes, safety_shapes
from safety_modules.config import BaseSizes, SafetyConfig
from safety_modules.errors import ConfigError

PARTS = {
    "projector": "safety projector",
    "head_tokens": "head tokens (s1)",
    "lm_tokens": "language-model tokens (s2)",
    "head": "safety head",
    "peers": "further sets of the ensemble",
    "branches": "branches of added types",
}


@dataclass(frozen=True)
class Plan:
    """Parameters of each part.

    Attributes:
        parts: parameters by part, LoRA last.
    """

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parts.values())

    def megabytes(self, dtype: str = "float16", part: str | None = None) -> float:
        """Size of the tensors on disk, or of one part's, in MB (10^6 bytes).

        Args:
            dtype: float16, bfloat16 or float32.
            part: one of `parts`; None = all.
        """
        return (self.total if part is None else self.parts[part]) * DTYPES[dtype].itemsize / 1e6


def planned_parameters(config: SafetyConfig, sizes: BaseSizes) -> Plan:
    """Parameters of the modules and the LoRA on a base.

    Args:
        config: the design.
        sizes: the base, from its backbone; `linears` is needed where the design has a LoRA.

    Raises:
        ConfigError: the design does not fit the base.
    """
    absent = {"peers": config.ensemble == 1, "branches": not config.added}
    parts = {what: 0 for part, what in PARTS.items() if not absent.get(part)}
    for name, shape in safety_shapes(config, sizes).items():
        parts[PARTS[name.partition(".")[0]]] += prod(shape)
    if config.lora:
        try:
            parts["LoRA"] = sum(prod(shape) for shape in lora_shapes(config.lora, sizes).values())
        except ValueError as error:
            raise ConfigError(f"no plan: {error}. Change lora.target_modules.") from error
    return Plan(parts)
