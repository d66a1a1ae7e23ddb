"""A LLaVA's vision tower without its language model: the same features, from a twentieth of the checkpoint.

The model is built without memory; only the tower up to the layer the modules see is filled, the embedding table, and
what else the base's fingerprint is made of (the projector).
"""

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from safety_modules.backbones import identity, tiled_backbone
from safety_modules.backbones.bases import FAMILIES, model_class
from safety_modules.backbones.hf_llava import HFLlava
from safety_modules.errors import AttachError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class TowerBackbone(HFLlava):
    """A backbone for verdicts alone: `encode_images`, `embed_text`, prompts, sizes and fingerprint; no `generate`.

    Args:
        folder: a checkpoint of transformers' LLaVA, with its processor.
        dtype: of the tower; None = as the checkpoint is.
        device: of the tower.
        whole: keep the layers that a LLaVA does not use, for the class token (`encode_with_class`).

    Attributes:
        bytes_read: of the checkpoint's tensors.

    Raises:
        AttachError: not such a checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        whole: bool = False,
    ) -> None:
        config, processor = _config(folder), AutoProcessor.from_pretrained(folder)
        kind = model_class(config)
        if kind.__name__ != self.architecture:
            raise AttachError(
                f"base not supported: expected a {self.architecture}, got a {kind.__name__}. Use open_tower."
            )
        model = _empty(config)
        super().__init__(model, processor)
        parts, layer = model.model, config.vision_feature_layer
        layers, places = identity.used_layers(parts.vision_tower, layer)
        if not whole:
            del layers[max(places) :]  # LLaVA-1.5: one of 24
        text = parts.language_model
        seen = [parts.vision_tower, parts.multi_modal_projector, *self._beside_projector]
        self.bytes_read = _fill(model, folder, [*seen, text.embed_tokens, text.norm])
        # Not the language model, which says nothing here.
        digests = {1: self._first_digest(), 2: identity.digests(self._parts, places, language=False)}
        self._identities = {version: self._described(found) for version, found in digests.items()}
        config.vision_feature_layer = places[0] if isinstance(layer, int) else places
        self._table = text.embed_tokens.weight.detach()
        parts.multi_modal_projector = nn.Identity()  # its input is what the modules see
        if hasattr(parts, "image_newline"):  # as wide as that
            parts.image_newline = nn.Parameter(torch.zeros(config.vision_config.hidden_size), requires_grad=False)
        parts.vision_tower.to(device, dtype)
        parts.language_model = nn.Module()  # so that the model's device and dtype are the tower's
        model.lm_head = nn.Module()

    def fingerprint(self, version: int = identity.DIGEST_VERSION) -> dict[str, Any]:
        return dict(self._identities[version])

    @torch.no_grad()
    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(ids.cpu(), self._table).to(self.device)


def without_blocks(
    folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> tuple[Any, Any]:
    """A LLaVA-1.5 that judges and embeds and cannot answer, with its processor: its blocks and output layer are empty.

    For a process in front of an engine that has the language model: safety is attached to it, and prepares calls.

    Args:
        folder: a checkpoint of transformers' LLaVA, with its processor.
        dtype: of what is read; None = as the checkpoint is.
        device: of the same.

    Raises:
        AttachError: not such a checkpoint.
    """
    config = _config(folder)
    if model_class(config).__name__ != TowerBackbone.architecture:
        raise AttachError(
            f"base not supported: expected a {TowerBackbone.architecture}, got a {model_class(config).__name__}, whose "
            "pictures are cut into tiles. Use a LLaVA-1.5."
        )
    model = _empty(config)
    if (folder / GENERATION_CONFIG_NAME).is_file():  # says which ids end an answer
        model.generation_config = GenerationConfig.from_pretrained(folder)
    parts, text = model.model, model.model.language_model
    read = [parts.vision_tower, parts.multi_modal_projector, text.embed_tokens, text.norm]
    _fill(model, folder, read)
    for module in read:
        module.to(device, dtype)
    return model, AutoProcessor.from_pretrained(folder)


def _empty(config: Any) -> Any:
    """The model with its weights on the meta device."""
    with init_empty_weights():
        return model_class(config)(config).eval()


def _fill(model: nn.Module, folder: Path, modules: list[nn.Module]) -> int:
    """Read the tensors of these of a model's modules; returns how many bytes they are."""
    own = {id(parameter) for module in modules for parameter in module.parameters()}
    wanted = {canonical(name): name for name, parameter in model.named_parameters() if id(parameter) in own}
    tensors = read_tensors(folder, wanted)
    state = {wanted[name]: tensor for name, tensor in tensors.items()}
    try:
        model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:  # shapes that are not the config's
        raise AttachError(f"base not read: expected tensors as its config.json says, got {error}.") from error
    return sum(tensor.nbytes for tensor in tensors.values())


def open_tower(
    folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu", whole: bool = False
) -> TowerBackbone:
    """The `TowerBackbone` of the family that a checkpoint's config.json names; arguments and errors as there."""
    architecture = model_class(_config(folder)).__name__
    if architecture == TowerBackbone.architecture:
        return TowerBackbone(folder, dtype, device, whole)
    kind = type("TowerBackbone", (TowerBackbone, tiled_backbone(architecture)), {})
    found: TowerBackbone = kind(folder, dtype, device, whole)
    return found


def _config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise AttachError(f"no base model: expected a folder with config.json, got {folder}. Check the path.")
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in FAMILIES:
        raise AttachError(
            f"base not supported: expected a checkpoint of model_type {', '.join(FAMILIES)}, got "
            f"{config.model_type!r}. Use a LLaVA checkpoint in transformers' format."
        )
    return config


def canonical(name: str) -> str:
    """One name for a tensor of a LLaVA, whatever version of transformers wrote or holds it.

    Files from before 4.52, and what 5.x writes, begin with `language_model.model.` or `vision_tower.`; others with
    `model.`; and the level `vision_model` of the tower comes and goes.
    """
    name = name.removeprefix("model.")
    name = re.sub(r"^language_model\.model\.", "language_model.", name)
    return re.sub(r"^vision_tower\.vision_model\.", "vision_tower.", name)


def read_tensors(folder: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    """A few tensors of a LLaVA's checkpoint by canonical name, memory-mapped: nothing else of its files is touched.

    The folder has safetensors as transformers lays them out: one file, or shards with an index.

    Raises:
        AttachError: there are no safetensors, one cannot be read, or some names are not there.
    """
    if (folder / _INDEX).is_file():
        files = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    elif (folder / _SINGLE).is_file():
        with _opened(folder / _SINGLE) as file:
            files = dict.fromkeys(file.keys(), _SINGLE)
    else:
        raise AttachError(
            f"base not read: expected {_SINGLE} or {_INDEX} in {folder}, got neither. Save the base with "
            "save_pretrained; pickled weights are not opened."
        )
    written = {canonical(name): name for name in files}
    missing = [name for name in names if name not in written]
    if missing:
        raise AttachError(
            f"base not read: expected the tensors of a LLaVA in {folder}, got none named "
            f"{', '.join(missing[:5])} ({len(missing)} missing). Use a LLaVA-1.5 checkpoint of transformers."
        )
    found: dict[str, torch.Tensor] = {}
    for filename in sorted({files[written[name]] for name in names}):
        with _opened(folder / filename) as file:
            here = [name for name in names if files[written[name]] == filename]
            found |= {name: file.get_tensor(written[name]) for name in here}
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise AttachError(f"base not read: expected safetensors in {path}, got {error}. Get it again.") from error
