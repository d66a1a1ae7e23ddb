"""How large a defence will be on a base, before anything is made (meta device, no memory)."""

from collections import Counter
from dataclasses import dataclass
from math import prod

from safety_modules.adapter.format import DTYPES, shapes_of_lora
from safety_modules.config import BaseSizes
from safety_modules.defences.base import Settings
from safety_modules.defences.guard.guard import Guard
from safety_modules.defences.registry import KINDS
from safety_modules.errors import ConfigError

WORDS = {
    "projector": "safety projector",
    "head_tokens": "head tokens (s1)",
    "lm_tokens": "language-model tokens (s2)",
    "head": "safety head",
    "peers": "further sets of the ensemble",
    "branches": "branches of added types",
    "outside": "what the training's pictures are like",
}
"""What the parts of a guard's modules are called; those of other kinds by their own names."""


@dataclass(frozen=True)
class ParameterCount:
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


def count_parameters(kind: str, settings: Settings, sizes: BaseSizes) -> ParameterCount:
    """Parameters of a defence's modules and its LoRA on a base.

    Args:
        kind: of the defence.
        settings: of this kind.
        sizes: the base, from its backbone; `linears` is needed where there is a LoRA.

    Raises:
        ConfigError: the settings do not fit the base.
    """
    parts = Counter[str]()
    for name, shape in KINDS[kind].shapes(settings, sizes).items():
        part = name.partition(".")[0]
        parts[WORDS[part] if kind == Guard.kind else part] += prod(shape)
    if settings.lora_settings:
        try:
            parts["LoRA"] = sum(prod(shape) for shape in shapes_of_lora(settings, sizes).values())
        except ValueError as error:
            raise ConfigError(f"no plan: {error}. Change lora.target_modules.") from error
    return ParameterCount(dict(parts))
