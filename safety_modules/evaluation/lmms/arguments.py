"""What lmms-eval's model arguments and a task's decoding settings mean, checked; without lmms-eval."""

from collections.abc import Mapping
from typing import Any

from safety_modules.errors import ConfigError


def choose_system(safety: str | bool, mode: str | None, defence: str | None, allow: str) -> str:
    """The system that the arguments ask for, as `evaluation.systems` calls it.

    Raises:
        ConfigError: an unknown value, or arguments of ours for a system that is not ours.
    """
    if safety not in ("on", "off", True, False):
        raise ConfigError(f"unknown safety: expected on or off, got {safety!r}. Pick one of them.")
    if mode not in (None, "gated", "always"):
        raise ConfigError(f"unknown mode: expected gated or always, got {mode!r}. Pick one of them.")
    off = safety in ("off", False)
    if defence is not None and off:
        raise ConfigError(f"two systems: expected safety=off or defence={defence}, got both. Leave one out.")
    if (off or defence is not None) and (mode is not None or allow):
        got = " and ".join(f"{key}={value}" for key, value in (("mode", mode), ("allow", allow)) if value)
        raise ConfigError(f"no effect: expected {got} only where our safety is on, got it with another. Leave it out.")
    return defence or ("none" if off else mode or "gated")


def new_tokens(decoding: Mapping[str, Any], limit: int) -> int:
    """The limit of new tokens that a task's decoding settings ask for.

    Raises:
        ConfigError: they ask for anything but greedy decoding.
    """
    sampled = decoding.get("do_sample", True) and (decoding.get("temperature") or 0) > 0
    beams = decoding.get("num_beams") or 1
    if sampled or beams > 1:
        raise ConfigError(
            f"task not answered: expected greedy decoding, got {dict(decoding)}. "
            "Set it: --gen_kwargs do_sample=False,temperature=0,num_beams=1."
        )
    return int(decoding.get("max_new_tokens") or limit)
