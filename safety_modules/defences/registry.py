"""Every kind of defence by its name: one line each."""

from collections.abc import Sequence

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
        ConfigError: no such kind, or a defence that was made for another model.
    """
    if isinstance(wanted, Defence):
        if wanted.backbone.model is not backbone.model:
            raise ConfigError(
                f"another model's defence: expected {wanted.kind} made for this model, got one for another, on which "
                "it would act. Pass its settings, or make it on this one."
            )
        return wanted
    name = wanted if isinstance(wanted, str) else getattr(wanted, "kind", None)
    if name in GUARD_MODES:
        return in_mode(Guard(backbone), str(name))
    if name not in KINDS or not isinstance(wanted, str | Settings):
        known = (*KINDS, *GUARD_MODES)
        raise ConfigError(
            f"unknown defence: expected one of {', '.join(known)}, got {wanted!r}."
            f"{did_you_mean(str(name), known)} Name one of them, or pass its settings."
        )
    return KINDS[name](backbone, None if isinstance(wanted, str) else wanted)


def in_mode(guard: Guard, mode: str) -> Guard:
    """The guard, in this mode."""
    guard.mode = mode
    return guard


def arranged(parts: Sequence[Defence], wanted: Sequence[Defence]) -> tuple[Defence, ...]:
    """Defences in order, the outermost first.

    Args:
        parts: an adapter's own, in their order, which they keep; several that are wanted change places among them.
        wanted: in order; those that are not parts come right after the one that is wanted before them, else before the
            next one, else last.
    """
    named = iter([one for one in wanted if one in parts])
    found = [next(named) if one in wanted else one for one in parts]
    for place, one in enumerate(wanted):
        if one not in found:
            before = [found.index(other) + 1 for other in wanted[:place] if other in found]
            after = [found.index(other) for other in wanted[place:] if other in found]
            found.insert(before[-1] if before else after[0] if after else len(found), one)
    return tuple(found)
