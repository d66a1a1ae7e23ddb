"""Every kind of defence by its name: one line each."""

from collections.abc import Sequence
from typing import Any

from safety_modules.backbones import Backbone
from safety_modules.defences.adashield import AdaShieldS
from safety_modules.defences.anchors import Anchors
from safety_modules.defences.base import Defence, Settings
from safety_modules.defences.cmrm import Cmrm
from safety_modules.defences.davsp import Davsp
from safety_modules.defences.ecso import Ecso
from safety_modules.defences.guard.guard import Guard
from safety_modules.defences.lora_tuning import LoraTuning
from safety_modules.defences.meta_token import MetaToken
from safety_modules.defences.shift import ShiftDefence
from safety_modules.defences.shiftdc import ShiftDc
from safety_modules.defences.tga import Tga
from safety_modules.errors import ConfigError, did_you_mean

KINDS: dict[str, type[Defence]] = {
    kind.kind: kind
    for kind in (
        Guard,
        AdaShieldS,
        Ecso,
        LoraTuning,
        MetaToken,
        Cmrm,
        ShiftDc,
        Tga,
        Davsp,
    )
}

FITTED = {name: kind for name, kind in KINDS.items() if issubclass(kind, ShiftDefence)}
"""Those that need texts, and no training."""

GUARD_MODES = ("gated", "always", "external", "selective")
"""Names for a guard in another mode than its design's."""


def make(backbone: Backbone, wanted: str | Settings | Defence, anchors: Anchors | None = None) -> Defence:
    """A defence on a base, from its kind, its settings, or as it is; fitted, where that takes no training.

    Args:
        backbone: the base.
        wanted: which defence.
        anchors: texts that it is fitted to; None = the shipped ones.

    Raises:
        ConfigError: no such kind, a defence that was made for another model, or anchors that it cannot use.
    """
    if isinstance(wanted, Defence):
        if wanted.backbone.model is not backbone.model:
            raise ConfigError(
                f"another model's defence: expected {wanted.kind} made for this model, got one for another, on which "
                "it would act. Pass its settings, or make it on this one."
            )
        return wanted
    name = _kind(wanted)
    if name in GUARD_MODES:
        return in_mode(Guard(backbone), name)
    if name not in KINDS or not isinstance(wanted, str | Settings):
        known = (*KINDS, *GUARD_MODES)
        raise ConfigError(
            f"unknown defence: expected one of {', '.join(known)}, got {wanted!r}."
            f"{did_you_mean(name, known)} Name one of them, or pass its settings."
        )
    made = KINDS[name](backbone, None if isinstance(wanted, str) else wanted)
    if isinstance(made, ShiftDefence):
        made.fit(anchors)
    return made


def fitted_to(backbone: Backbone, wanted: Sequence[str | Settings | Defence], anchors: Anchors) -> list[Any]:
    """What is wanted, with those that texts are needed for made and fitted to these.

    Raises:
        ConfigError: there are none.
    """
    needing = [one for one in wanted if _kind(one) in FITTED]
    if not needing or any(isinstance(one, Defence) for one in needing):
        raise ConfigError(
            f"anchors of nothing: expected a defence that is fitted to texts, {' or '.join(FITTED)}, by name or "
            f"settings, got {', '.join(map(_kind, wanted)) or 'none'}. Name it in defence=..., or leave anchors out."
        )
    return [make(backbone, one, anchors) if one in needing else one for one in wanted]


def _kind(wanted: str | Settings | Defence) -> str:
    return wanted if isinstance(wanted, str) else str(getattr(wanted, "kind", wanted))


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
