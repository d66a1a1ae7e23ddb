"""Every kind of defence by its name: one line each."""

from safety_modules.backbones import Backbone
from safety_modules.defences.adashield import AdaShieldS
from safety_modules.defences.base import Defence, Settings
from safety_modules.defences.ecso import Ecso
from safety_modules.defences.guard.guard import Guard
from safety_modules.defences.lora_tuning import LoraTuning
from safety_modules.defences.meta_token import MetaToken
from safety_modules.errors import ConfigError, did_you_mean

KINDS: dict[str, type[Defence]] = {
    kind.kind: kind
    for kind in (
        Guard,
        AdaShieldS,
        Ecso,
        LoraTuning,
        MetaToken,
    )
}

GUARD_MODES = ("gated", "always", "external")
"""Names for a guard in another mode than its design's."""


def make(backbone: Backbone, wanted: str | Settings | Defence) -> Defence:
    """A defence on a base, from its kind, its settings, or as it is.

    Raises:
        ConfigError: no such kind.
    """
    if isinstance(wanted, Defence):
        return wanted
    name = wanted if isinstance(wanted, str) else getattr(wanted, "kind", None)
    if name in GUARD_MODES:
        guard = Guard(backbone)
        guard.mode = name
        return guard
    if name not in KINDS:
        known = (*KINDS, *GUARD_MODES)
        raise ConfigError(
            f"unknown defence: expected one of {', '.join(known)}, got {wanted!r}."
            f"{did_you_mean(str(name), known)} Name one of them, or pass its settings."
        )
    return KINDS[name](backbone, None if isinstance(wanted, str) else wanted)


def arranged(backbone: Backbone, parts: list[Defence], wanted: list[str | Settings | Defence]) -> list[Defence]:
    """Defences in order, the outermost first.

    Args:
        backbone: the base.
        parts: an adapter's own, in their order. Those that `wanted` does not name come first.
        wanted: in order: the kind of a part, or what `make` takes.
    """
    by_kind, found = {part.kind: part for part in parts}, list[Defence]()
    for one in wanted:
        kind = "guard" if one in GUARD_MODES else one
        part = by_kind.pop(kind, None) if isinstance(kind, str) else None
        if part is None:
            part = make(backbone, one)
        elif one in GUARD_MODES and isinstance(part, Guard):
            part.mode = str(one)
        found.append(part)
    return [*by_kind.values(), *found]
