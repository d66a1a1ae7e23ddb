"""What a stage trains, and the loss of a batch: one module for both stages, without any base parameter."""

from typing import Any

import torch
from torch import nn

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.defences.guard import Sample, build_inputs, lm_forward
from safety_modules.errors import ConfigError
from safety_modules.policy.scores import HeadOutput
from safety_modules.training.corpus import PARTS, LmRows
from safety_modules.training.losses import HeadLoss, head_loss, language_model_loss
from safety_modules.training.recipe import Recipe


class SafetyObjective(nn.Module):
    """The trained parameters of an attachment, and the loss of a batch.

    Stage I trains projector, head tokens and head on CE(type) + CE(level). Stage II trains LoRA and the
    language-model tokens on the language-model loss and, unless both head weights are zero, the head on its own
    losses beside. The parameters are the attachment's own, not copies. The base is used, never held: `parameters()` and
    `state_dict()` have nothing of it.

    Raises:
        ConfigError: the design leaves nothing to train, or needs the patches that the recipe would leave out; or
            stage II on a base in float16.
    """

    def __init__(self, attachment: SafetyAttachment, recipe: Recipe) -> None:
        super().__init__()
        modules, lora = attachment.modules, attachment.lora
        if recipe.patch_dropout and (attachment.config.projector != "mlp" or attachment.config.words):
            got = "words" if attachment.config.words else attachment.config.projector
            raise ConfigError(
                f"no patches to leave out: expected the mlp projector, got {got}, which needs the whole grid. Take "
                "patch_dropout out of the recipe."
            )
        if recipe.stage == 2 and attachment.config.words:
            raise ConfigError(
                "stage 2 refused: expected a design with LoRA or language-model tokens, got words, which have neither. "
                "Train a head with --teacher, whose stage 2 follows."
            )
        if recipe.stage == 2 and attachment.backbone.model.dtype == torch.float16:
            raise ConfigError(
                "stage 2 refused: expected a base in bfloat16 or float32, got float16, where small gradients vanish. "
                "Load it in bfloat16 (--dtype bfloat16)."
            )
        self.recipe = recipe
        self.attachment = attachment
        self.head = nn.ModuleDict()
        self.lm_tokens: nn.Module | None = None
        self.lora = nn.ParameterDict()
        if recipe.trains_head:
            for name in ("projector", "head_tokens", "head", "peers"):
                self.head[name] = modules.get_submodule(name)
        if recipe.stage == 2:
            self.lm_tokens = modules.lm_tokens
            for name, parameter in lora.named_parameters() if lora else ():
                self.lora[name.replace(".", "/")] = parameter  # torch allows no dots here
        if not any(parameter.numel() for parameter in self.parameters()):
            raise ConfigError(
                "nothing to train: expected LoRA, language-model tokens or the head, got a design and a recipe "
                "without. Change SafetyConfig.lora or num_lm_tokens, or the recipe's type_weight."
            )

    def train(self, mode: bool = True) -> "SafetyObjective":
        super().train(mode)
        self.attachment.modules.train(mode)  # the parts are this module's own, their whole is not
        if self.attachment.lora and self.recipe.stage == 2:
            # Its dropout is no part of this module, and all that its training mode switches.
            self.attachment.lora.train(mode and self.recipe.lora_dropout)
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimizer: learning rate of the part, weight decay on matrices only."""
        recipe, slow = self.recipe, self.recipe.modules_learning_rate
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        tokens = ("head_tokens.weight", "lm_tokens.weight")
        for name, parameter in self.named_parameters():
            if parameter.numel():
                rate = slow if slow is not None and name.startswith("head.") else recipe.learning_rate
                decay = recipe.weight_decay if parameter.ndim > 1 and not name.endswith(tokens) else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]

    def forward(
        self,
        vision: torch.Tensor | None = None,
        question: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        type_labels: torch.Tensor | None = None,
        level_labels: torch.Tensor | None = None,
        lm: LmRows | None = None,
        shares: dict[str, float] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses of a batch: `loss` and its parts. `shares`: factors of the parts in `loss`, where the batch is a part
        of a step. Other arguments: see `Collator`.
        """
        shares = shares or dict.fromkeys(PARTS, 1.0)
        losses: dict[str, torch.Tensor] = {}
        total, recipe = [], self.recipe
        if vision is not None and recipe.trains_head:
            assert type_labels is not None and level_labels is not None
            device = self.attachment.modules.device
            labels = type_labels.to(device), level_labels.to(device)
            weights = recipe.type_weight, recipe.level_weight, recipe.label_smoothing
            found = [
                head_loss(output.type_logits, output.level_logits, *labels, *weights)
                for output in self._head_outputs(vision, question, question_mask)
            ]
            # Each set of an ensemble learns from its own mistakes, none from what they say together.
            head = HeadLoss(*(torch.stack(parts).mean() for parts in zip(*found, strict=True)))
            losses["type"], losses["level"] = head.type, head.level
            total.append(head.total * shares["head"])
        if lm is not None:
            losses["lm"] = self._language_model(vision, lm)
            total.append(losses["lm"] * shares["lm"])
        return {"loss": torch.stack(total).sum(), **losses}

    def _head_outputs(
        self, vision: torch.Tensor, question: torch.Tensor | None, mask: torch.Tensor | None
    ) -> list[HeadOutput]:
        """Of each set of the ensemble; all of them see the same patches and the same noise."""
        modules, recipe = self.attachment.modules, self.recipe
        if self.training and recipe.patch_dropout:
            kept = max(1, round(vision.shape[1] * (1 - recipe.patch_dropout)))
            chosen = torch.rand(vision.shape[:2], device=vision.device).argsort(1)[:, :kept]  # of each picture others
            vision = vision.gather(1, chosen.unsqueeze(-1).expand(-1, -1, vision.shape[2]))  # (B, kept, Dv)
        vision = vision.to(modules.device, modules.dtype)
        if self.training and recipe.feature_noise:
            noise = recipe.feature_noise * vision.std() * torch.randn_like(vision)
            vision = vision + (noise if modules.sizes.tile is None else noise * vision.any(-1, keepdim=True))
        return modules.each(vision, question, mask)

    def _language_model(self, vision: torch.Tensor | None, lm: LmRows) -> torch.Tensor:
        backbone = self.attachment.backbone
        with torch.no_grad():  # the base's projector is frozen
            projected = iter([] if vision is None else backbone.project(vision))
        shown = [(row, [next(projected)] if row.has_image else []) for row in lm.rows]
        samples = [
            Sample(backbone.expanded(row.prompt, features), features, row.steer, row.answer) for row, features in shown
        ]
        inputs = build_inputs(backbone, self.attachment.modules.lm_tokens(), samples)
        labels = inputs.labels
        assert labels is not None
        # Answers stand at the right end: the vocabulary is computed for them only (and the token before).
        kept = max(len(row.answer) for row in lm.rows) + 1
        output = lm_forward(backbone, inputs._replace(labels=None), logits_to_keep=kept, use_cache=False)
        return language_model_loss(output.logits, labels[:, -kept:])
