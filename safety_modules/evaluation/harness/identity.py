"""What identifies the base of a run, so that a run is not continued on another one."""

import hashlib
from typing import Any

import torch

from safety_modules.backbones import find_backbone
from safety_modules.backbones.identity import pixel_settings


def identify(model: Any, processor: Any, name: str) -> dict[str, Any]:
    """Name, fingerprint, checksum of all weights, precision, device and picture settings; JSON-able.

    Raises:
        AttachError: the base is not supported.
    """
    return {
        "name": name,
        **find_backbone(model, processor).fingerprint(),
        "weights": checksum(model),
        "precision": sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}),
        "device": model.device.type,
        "pixels": pixel_settings(processor.image_processor),
    }


def checksum(model: torch.nn.Module) -> str:
    """SHA-256 over name, shape and sum of the bytes of every parameter; quick on every device, the same on all.

    Does not cover: changes made to keep the sums.
    """
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        data = parameter.detach().contiguous().flatten().view(torch.uint8)
        total.update(f"{name} {tuple(parameter.shape)} {data.sum(dtype=torch.int64).item()}\n".encode())
    return total.hexdigest()
