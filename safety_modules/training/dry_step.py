"""A step of training on the meta device: the shapes of a real one, and no data."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraModel
from torch import nn

from safety_modules.backbones.hf_llava import HFModules
from safety_modules.config import BaseSizes, SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.mount.lora_layer import ADAPTER
from safety_modules.mount.lora_slots import lora_config
from safety_modules.training.losses import head_loss, language_model_loss
from safety_modules.training.memory import activation_checkpointing
from safety_modules.training.metering import Metered, metered
from safety_modules.training.recipe import Recipe


@dataclass(frozen=True)
class Step:
    """One forward and backward pass.

    Attributes:
        design: of the modules and LoRA.
        recipe: of the stage.
        sizes: of the base.
        rows: samples; each has a picture.
        text_tokens: of a sample beside its picture.
        answer_tokens: those of them that are learned.

    Does not cover: torch's autocast, which knows no meta tensors. Where the recipe's precision is bfloat16, LoRA is
    taken to be bfloat16, as autocast computes it, and the modules float32, which is more than they take.
    """

    design: SafetyConfig
    recipe: Recipe
    sizes: BaseSizes
    rows: int
    text_tokens: int
    answer_tokens: int

    def metered(self, model: Any, checkpointed: bool) -> Metered:
        """What it takes beside the weights and gradients.

        Args:
            model: a base on the meta device, changed by this: LoRA is put on it.
            checkpointed: with activation checkpointing.
        """
        with torch.device("meta"):
            modules = SafetyModules(self.design, self.sizes).train()
            known = [*model.parameters(), *model.buffers(), *modules.parameters()]
            language_model = HFModules(model).language_model
            if self.recipe.stage == 2:
                known += _add_lora(language_model, self.design, self.recipe)
            for tensor in known:
                if tensor.requires_grad:
                    tensor.grad = torch.zeros_like(tensor)
            known += [tensor.grad for tensor in known if tensor.grad is not None]

            def run() -> None:
                losses = [self._head(modules)] if self.recipe.trains_head else []
                if self.recipe.stage == 2:
                    losses.append(self._language_model(model, modules))
                torch.stack(losses).sum().backward()

            with activation_checkpointing(language_model, checkpointed):
                return metered(run, known)

    def _head(self, modules: SafetyModules) -> torch.Tensor:
        patches = self.sizes.num_patches
        seen = max(1, round(patches * (1 - self.recipe.patch_dropout)))
        vision = torch.empty(self.rows, seen, self.sizes.vision_width)
        question = torch.empty(self.rows, self.text_tokens - self.answer_tokens, self.sizes.text_width)
        output = modules(vision, question, torch.ones(question.shape[:2], dtype=torch.bool))
        labels = torch.zeros(self.rows, dtype=torch.long)
        return head_loss(output.type_logits, output.level_logits, labels, labels).total

    def _language_model(self, model: Any, modules: SafetyModules) -> torch.Tensor:
        rows, kept = self.rows, self.answer_tokens + 1
        length = self.sizes.num_patches + self.text_tokens
        prompt = torch.empty(rows, length, self.sizes.text_width, dtype=model.dtype)
        tokens = modules.lm_tokens().to(model.dtype).expand(rows, -1, -1)
        embedded = torch.cat([tokens, prompt], 1)
        length = embedded.shape[1]
        # A whole mask, as for a padded batch: transformers would look into a shorter one, and there is nothing in it.
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool)
        places = torch.arange(length).expand(rows, -1)
        output = HFModules(model).language_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=places, use_cache=False
        )
        logits = model.get_output_embeddings()(output.last_hidden_state[:, -kept:])
        return language_model_loss(logits, torch.zeros(rows, kept, dtype=torch.long))


def _add_lora(language_model: nn.Module, design: SafetyConfig, recipe: Recipe) -> list[torch.Tensor]:
    """LoRA in training mode; its parameters."""
    if design.lora is None:
        return []
    LoraModel(language_model, lora_config(design.lora), ADAPTER)
    dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    found = [parameter for parameter in language_model.parameters() if parameter.requires_grad]
    for parameter in found:
        parameter.data = parameter.data.to(dtype)
    return [*found]


def tower_flops(model: Any, sizes: BaseSizes) -> int:
    """Operations of the vision tower on one picture."""
    base = HFModules(model)
    with torch.device("meta"), torch.no_grad():
        pixels = torch.empty(1, *base.pixel_shape, dtype=model.dtype)
        return metered(lambda: base.vision_tower(pixels), []).flops
