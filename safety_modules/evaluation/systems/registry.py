"""Systems by name: `NAME`, or `NAME=FOLDER` with trained weights."""

from collections.abc import Callable
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.hub import find_adapter
from safety_modules.errors import ConfigError
from safety_modules.evaluation.systems.adashield import AdaShieldS
from safety_modules.evaluation.systems.base import System
from safety_modules.evaluation.systems.ecso import Ecso
from safety_modules.evaluation.systems.external import External
from safety_modules.evaluation.systems.guarded import Guarded
from safety_modules.evaluation.systems.lora import PlainLora
from safety_modules.evaluation.systems.meta_token import MetaToken
from safety_modules.evaluation.systems.none import Plain
from safety_modules.evaluation.systems.paper import Paper
from safety_modules.evaluation.systems.weights import training

UNTRAINED: dict[str, Callable[[Any, Any], System]] = {"none": Plain, "adashield-s": AdaShieldS, "ecso": Ecso}
"""Need nothing but the base."""

ADAPTED: dict[str, Callable[[Any, Any, Any], System]] = {
    "gated": lambda model, processor, adapter: Guarded(model, processor, adapter, "gated"),
    "always": lambda model, processor, adapter: Guarded(model, processor, adapter, "always"),
    "external": External,
}
"""Need an adapter of this package; several may share one."""

TRAINED: dict[str, Callable[[Any, Any, Any], System]] = {"lora": PlainLora, "paper": Paper, "meta-token": MetaToken}
"""Need weights of their own."""

NAMES = (*UNTRAINED, *TRAINED, *ADAPTED)


def make_system(spec: str, model: Any, processor: Any, adapter: str | PathLike[str] | None = None) -> System:
    """A system on a base.

    Systems are on the model only while they answer, so that several of them may share one and take turns.

    Args:
        spec: `NAME` or `NAME=FOLDER`, see `NAMES`.
        model: the base, with nothing attached.
        processor: its processor.
        adapter: for `gated`, `always` and `external` without a folder of their own.

    Raises:
        ConfigError: unknown name, or a folder that is missing or not wanted.
        AdapterError: the folder is refused.
        AttachError: the base is not supported.
    """
    name, folder = check_spec(spec, adapter)
    if folder is None:
        return UNTRAINED[name](model, processor)
    return (TRAINED if name in TRAINED else ADAPTED)[name](model, processor, folder)


def check_spec(spec: str, adapter: str | PathLike[str] | None = None) -> tuple[str, Path | None]:
    """What of `make_system` can be known without a base: its name and the folder of its weights, looked at whole.

    Raises:
        ConfigError: as `make_system`.
        AdapterError: as `make_system`, where the base does not matter.
    """
    name, _, given = spec.partition("=")
    if name not in NAMES:
        near = get_close_matches(name, NAMES, n=1, cutoff=0)
        raise ConfigError(
            f"unknown system: expected one of {', '.join(NAMES)}, got {name!r}. Did you mean {near[0]!r}?"
        )
    if name in UNTRAINED:
        if given:
            raise ConfigError(f"nothing to load: expected {name!r} alone, got {spec!r}. Leave the folder out.")
        return name, None
    if name in TRAINED:
        if not given or not Path(given).is_dir():
            raise ConfigError(
                f"no weights: expected {name}=FOLDER with trained weights, got {spec!r}. {training(name)}"
            )
        return name, Path(given)
    if not given and adapter is None:
        raise ConfigError(
            f"no adapter: expected one for {name!r}, got none. Name it (--adapter, or {name}=FOLDER), or train one: "
            "safety-modules train --out DIR."
        )
    return name, read_adapter(find_adapter(given or adapter or "")).path
