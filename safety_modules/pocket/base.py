"""Is a base the embedded one? It knows drawings of this package, and of photographs nothing at all."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from safety_modules.paths import checkpoint_dir

NOTICE = (
    "llava-pocket is the judge here, which knows nothing but its own drawn symbols and words: on photographs its "
    "verdicts mean nothing. For those, name a base and an adapter made for it (--model, --adapter)."
)


def is_pocket(fingerprint: Mapping[str, Any]) -> bool:
    """Whether a base is the embedded one, wherever it lies and however its weights were trained.

    Args:
        fingerprint: of the base, as its backbone gives it.
    """
    return all(fingerprint.get(name) == value for name, value in _sizes().items())


def notice(fingerprint: Mapping[str, Any]) -> str | None:
    """What to say wherever a base judges pictures that are not this package's own: `NOTICE`, if it is pocket."""
    return NOTICE if is_pocket(fingerprint) else None


@cache
def _sizes() -> dict[str, Any]:
    config = json.loads((checkpoint_dir() / "config.json").read_text(encoding="utf-8"))
    vision, text = config["vision_config"], config["text_config"]
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "vision_width": vision["hidden_size"],
        "text_width": text["hidden_size"],
        "num_layers": text["num_hidden_layers"],
        "vocab_size": text["vocab_size"],
    }
