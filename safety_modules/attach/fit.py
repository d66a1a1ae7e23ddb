"""One adapter's parts on a live base: made fresh, or of a trained adapter."""

from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.hub import find_adapter
from safety_modules.backbones import Backbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.mount.lora import SafetyLora
from safety_modules.policy.policy import Rule

SEED = 0
"""Of the modules' and LoRA's first weights, so that two untrained sets are equal."""


@dataclass
class Fitted:
    """One adapter's parts, made for a live base: design, modules, LoRA, calibration and the rules it brings.

    Attributes:
        fingerprint: the base's, when they were fitted to it.
        trained: whether its verdicts mean anything: it was loaded, or its head was trained.
    """

    config: SafetyConfig
    modules: SafetyModules
    lora: SafetyLora | None
    fingerprint: dict[str, Any]
    thresholds: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    rules: dict[str, Rule] = field(default_factory=dict)
    trained: bool = False


def fit(backbone: Backbone, config: SafetyConfig, seed: int = SEED) -> Fitted:
    """Untrained modules and LoRA for a base; the base stays as it is.

    Args:
        backbone: the base.
        config: the design.
        seed: of the first weights.

    Raises:
        AttachError: the LoRA finds no place.
        ConfigError: the design does not fit the base.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reset the accelerators'
        # s2 stands in the language model's input: it starts at the size of the embeddings there.
        some = torch.arange(0, backbone.sizes.vocab_size, max(1, backbone.sizes.vocab_size // 1000))
        std = float(backbone.embed_text(some[None]).float().std())
        modules = SafetyModules(config, backbone.sizes, lm_token_std=std).to(backbone.device).eval()
        lora = None
        if config.lora is not None:
            lora = SafetyLora(backbone.language_model, config.lora, backbone.lock)
    return Fitted(config, modules, lora, backbone.fingerprint())


def fit_adapter(backbone: Backbone, adapter: str | PathLike[str], revision: str | None = None) -> Fitted:
    """A trained adapter on a base: found, checked whole, and only then fitted.

    Raises:
        AdapterError: it was refused.
    """
    loaded = read_adapter(
        find_adapter(adapter, revision),
        fingerprint=backbone.fingerprint,
        sizes=backbone.sizes,
        processor=backbone.pixel_settings(),
    )
    with backbone.lock:
        fitted = fit(backbone, loaded.config.safety)
    loaded.load_into(fitted)
    fitted.thresholds = dict(loaded.config.thresholds)
    fitted.temperature = loaded.config.temperature
    fitted.rules = dict(loaded.config.rules)
    fitted.trained = True
    return fitted
