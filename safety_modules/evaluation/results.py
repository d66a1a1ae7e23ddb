"""What stands in a result beside the shares: settings, intervals, the adapter's size."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_modules.adapter.parameters import count_parameters
from safety_modules.backbones.bases import PUBLISHED, published_sizes
from safety_modules.defences.guard.guard import Guard
from safety_modules.evaluation.asking import BATCH_SIZE, MAX_NEW_TOKENS, decoding
from safety_modules.evaluation.matchers import DEFAULT
from safety_modules.metrics import Estimate

if TYPE_CHECKING:
    from safety_modules.attach.attach import SafetyAttachment


def settings(samples: int, seed: int) -> dict[str, Any]:
    """What a number depends on beside the model."""
    return {
        "split": "test",
        "samples": samples,
        "seed": seed,
        "matcher": DEFAULT,
        "decoding": decoding(MAX_NEW_TOKENS, BATCH_SIZE),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the libraries that a number depends on."""
    import torch
    import transformers

    from safety_modules.version import __version__

    return {
        "safety-modules": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def values(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with every estimate replaced by its value; None stays None."""
    return _leaves(tree, lambda estimate: estimate.value)


def intervals(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with every estimate replaced by `{"low", "high", "n"}`; None stays None."""
    return _leaves(tree, lambda estimate: {"low": estimate.low, "high": estimate.high, "n": estimate.n})


def adapter_megabytes(attachment: "SafetyAttachment") -> float:
    """Size of the adapter's files on disk in MB (10^6 bytes), measured by saving it."""
    with tempfile.TemporaryDirectory() as folder:
        return megabytes_in(attachment.save_pretrained(Path(folder) / "adapter"))


def megabytes_in(folder: Path) -> float:
    """Size of all files in a folder, in MB (10^6 bytes)."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def planned_megabytes(attachment: "SafetyAttachment") -> dict[str, float]:
    """Size that this design would have on published bases, in MB of 16-bit tensors."""
    settings = attachment.guard.current_settings()
    return {name: count_parameters(Guard.kind, settings, published_sizes(name)).megabytes() for name in PUBLISHED}


def _leaves(tree: Mapping[str, Any], leaf: Callable[[Estimate], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Estimate):
            found[key] = leaf(value)
        else:
            found[key] = None if value is None else _leaves(value, leaf)
    return found
