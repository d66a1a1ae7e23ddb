"""What a meta-token design is made of: tokens behind each picture, a head on what the language model makes of them.

HoliSafe / SafeLLaVA (arXiv 2506.04704). The tokens stand behind the picture, so that in a causal language model they
can gather from it; the head reads the last hidden state at their places. What the user asks comes later, so the verdict
is about the picture alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.attach.fit import SEED, fit
from safety_modules.backbones import Backbone
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.defences.guard import LmInputs, Sample, Steer, build_inputs, lm_forward
from safety_modules.evaluation.systems.weights import check_names
from safety_modules.policy.policy import Policy
from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy


class MetaSettings(BaseModel):
    """Design and calibration.

    Attributes:
        tokens: learned tokens behind each picture (K); the paper has one.
        hidden: width of the head's hidden layer over the language model's (published: 0.5).
        dropout: in the head while training.
        lora: on the language model.
        taxonomy: risk types and levels.
        limits: calibrated thresholds, per risk type, as log-odds.
        temperature: the types' logits are divided by it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(default=8, gt=0, le=1024)
    hidden: float = Field(default=0.5, gt=0, le=8)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    lora: LoraSettings = LoraSettings()
    taxonomy: Taxonomy = DEFAULT_TAXONOMY
    limits: dict[str, float] = {}
    temperature: float = Field(default=1.0, gt=0)

    def carrier(self) -> SafetyConfig:
        """The design whose tokens and LoRA these are; its own head is not used, and as small as can be."""
        return SafetyConfig(
            taxonomy=self.taxonomy,
            width=1,
            attention_heads=1,
            num_head_tokens=1,
            num_lm_tokens=self.tokens,
            mode="always",
            lora=self.lora,
        )


class MetaHead(nn.Module):
    """Two linear layers on a hidden state: logits of type (with clean) and level.

    Args:
        width: of the language model (D).
        settings: the design.
    """

    def __init__(self, width: int, settings: MetaSettings) -> None:
        super().__init__()
        self.types = len(settings.taxonomy.labels)
        hidden = max(1, round(width * settings.hidden))
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, self.types + len(settings.taxonomy.levels)),
        )

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States (N, D) -> logits (N, types + 1) and (N, levels)."""
        logits = self.mlp(states)
        return logits[:, : self.types], logits[:, self.types :]


class MetaModel:
    """A base with meta tokens, head and LoRA, all kept outside it.

    Args:
        backbone: the base.
        settings: the design.
        seed: of the first weights.
    """

    def __init__(self, backbone: Backbone, settings: MetaSettings, seed: int = SEED) -> None:
        self.backbone, self.settings = backbone, settings
        self.attachment = SafetyAttachment(backbone, fit(backbone, settings.carrier(), seed), Policy.default())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.head = MetaHead(backbone.sizes.text_width, settings).to(backbone.device).eval()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside this block the base takes planned features. Not for training, which mounts the LoRA by itself."""
        self.attachment.install()
        try:
            with self.attachment.inference(), self.attachment.lora_mounted(True):
                yield
        finally:
            self.attachment.detach()

    def sample(
        self,
        prompt: Sequence[int],
        features: Sequence[torch.Tensor],
        hint: str | None = None,
        answer: Sequence[int] | None = None,
    ) -> Sample:
        """A prompt (image tokens expanded) with the meta tokens behind each of its pictures (P, D)."""
        tokens = self.attachment.modules.lm_tokens()
        image, patches, ids = self.backbone.image_token_id, self.backbone.sizes.num_patches, []
        seen = 0
        for token in prompt:
            ids.append(token)
            seen += token == image
            if token == image and seen % patches == 0:
                ids += [image] * len(tokens)
        longer = [torch.cat([feature, tokens.to(feature.device, feature.dtype)]) for feature in features]
        return Sample(ids, longer, Steer(hint=hint), answer)

    def inputs(self, samples: Sequence[Sample]) -> LmInputs:
        """The samples as a batch."""
        return build_inputs(self.backbone, self.attachment.modules.lm_tokens(), samples)

    def read(self, inputs: LmInputs, **options: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """One call of the language model: logits of types and levels per picture, and the call's output."""
        output = lm_forward(self.backbone, inputs, output_hidden_states=True, use_cache=False, **options)
        states = output.hidden_states[-1]  # (B, T, D)
        places = inputs.input_ids == self.backbone.image_token_id
        run = self.backbone.sizes.num_patches + self.settings.tokens
        found = states[places.to(states.device)].view(-1, run, states.shape[-1])[
            :, -self.settings.tokens :
        ]  # (N, K, D)
        types, levels = self.head(found.mean(1).to(self.head.mlp[0].weight))
        return types, levels, output

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that was trained, by name."""
        lora = self.attachment.lora
        assert lora is not None
        found = {"tokens": self.attachment.modules.lm_tokens.weight.detach()}
        found |= {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        return found | {f"lora.{name}": tensor for name, tensor in lora.state_dict().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor], folder: object = "weights") -> None:
        """Copy tensors in. Raises AdapterError where names or shapes are others."""
        own = self.tensors()
        check_names(folder, own, tensors)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])

    def parameters(self) -> int:
        """How many numbers there are beside the base's."""
        return sum(tensor.numel() for tensor in self.tensors().values())
