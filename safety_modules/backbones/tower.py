"""A LLaVA's vision tower without its language model: the same features, from a twentieth of the checkpoint.

The model is built without memory; only the tower up to the layer the modules see is filled, and what the base's
fingerprint is made of. The embedding table is read on the first question.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

from safety_modules.backbones.checkpoint import Checkpoint, canonical
from safety_modules.backbones.hf_llava import HFLlava
from safety_modules.errors import AttachError

_EMBEDDINGS = "language_model.embed_tokens.weight"


class TowerBackbone(HFLlava):
    """A backbone for verdicts alone: `encode_images`, `embed_text`, prompts, sizes and fingerprint; no `generate`.

    Args:
        folder: a checkpoint of transformers' LLaVA, with its processor.
        dtype: of the tower; None = as the checkpoint is.
        device: of the tower.

    Attributes:
        bytes_read: of the checkpoint's tensors, so far.

    Raises:
        AttachError: not such a checkpoint.
    """

    def __init__(self, folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> None:
        if not (folder / "config.json").is_file():
            raise AttachError(f"no base model: expected a folder with config.json, got {folder}. Check the path.")
        config, processor = AutoConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        if config.model_type != "llava":
            raise AttachError(
                f"base not supported: expected a checkpoint of model_type 'llava', got {config.model_type!r}. "
                "Use a LLaVA-1.5 checkpoint in transformers' format."
            )
        self._checkpoint = Checkpoint(folder)
        with init_empty_weights():
            model = LlavaForConditionalGeneration(config).eval()
        super().__init__(model, processor)
        inner = model.model
        self._fill([inner.vision_tower.get_input_embeddings(), inner.multi_modal_projector, inner.language_model.norm])
        self._identity = super().fingerprint()
        inner.multi_modal_projector = nn.Identity()  # its input is what the modules see
        _cut(model)
        self._fill([inner.vision_tower])
        inner.vision_tower.to(device, dtype)
        inner.language_model = nn.Module()  # so that the model's device and dtype are the tower's
        model.lm_head = nn.Module()
        self._table: torch.Tensor | None = None

    @property
    def bytes_read(self) -> int:
        return self._checkpoint.bytes_read

    def fingerprint(self) -> dict[str, Any]:
        return self._identity

    @torch.no_grad()
    def embed_text(self, ids: torch.Tensor) -> torch.Tensor:
        if self._table is None:
            self._table = self._checkpoint.read([_EMBEDDINGS])[_EMBEDDINGS]
        return nn.functional.embedding(ids.cpu(), self._table).to(self.device)

    def _fill(self, modules: list[nn.Module]) -> None:
        """Read what these modules still lack. A projector's weights are no part of the fingerprint: left out."""
        own = {id(parameter) for module in modules for parameter in module.parameters() if parameter.is_meta}
        left_out = {id(part.weight) for part in self._projector.modules() if isinstance(part, nn.Linear)}
        wanted = {
            canonical(name): name
            for name, parameter in self.model.named_parameters()
            if id(parameter) in own - left_out
        }
        tensors = self._checkpoint.read(wanted)
        state = {wanted[name]: tensor for name, tensor in tensors.items()}
        try:
            self.model.load_state_dict(state, strict=False, assign=True)
        except RuntimeError as error:  # shapes that are not the config's
            raise AttachError(f"base not read: expected tensors as its config.json says, got {error}.") from error


def _cut(model: LlavaForConditionalGeneration) -> None:
    """Take off the tower's layers above the last one whose output is used (LLaVA-1.5: one of 24)."""
    tower, config = model.model.vision_tower, model.config
    layers = tower.encoder.layers if hasattr(tower, "encoder") else tower.vision_model.encoder.layers
    count, chosen = len(layers), config.vision_feature_layer
    # Counted from the embeddings' output, 0, to the last layer's, so that the count no longer matters.
    places = [place if place >= 0 else count + 1 + place for place in ([chosen] if isinstance(chosen, int) else chosen)]
    del layers[max(places) :]
    config.vision_feature_layer = places[0] if isinstance(chosen, int) else places
