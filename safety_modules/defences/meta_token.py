"""`meta-token`: learned tokens behind each picture, a head on what the language model makes of them, LoRA always on.

HoliSafe / SafeLLaVA (arXiv 2506.04704). The tokens stand behind the picture, so that in a causal language model they
can gather from it; the head reads the last hidden state at their places. What the user asks comes later, so the verdict
is about the picture alone. One pass of the language model for the verdict, then one that answers, with the policy's
hint; one run of the vision tower for both.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from safety_modules.backbones import Backbone
from safety_modules.config import BaseSizes, LoraSettings
from safety_modules.defences.answer import Answer
from safety_modules.defences.base import SEED, Answering, Defence, Settings
from safety_modules.defences.call import Call
from safety_modules.defences.guard.guard import (
    Route,
    Temperature,
    Threshold,
    embedding_scale,
    not_refused,
    refused,
    route,
    thresholds_problem,
)
from safety_modules.defences.guard.modules import SafetyTokens
from safety_modules.defences.guard.steer import LmInputs, Sample, Steer, build_inputs, lm_forward
from safety_modules.mount.hooks import noted
from safety_modules.mount.lora import Lora
from safety_modules.policy.policy import Policy, check_policy
from safety_modules.policy.scores import HeadOutput, judgements
from safety_modules.policy.verdict import Verdict
from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy


class MetaTokenSettings(Settings):
    """Design and calibration.

    Attributes:
        tokens: learned tokens behind each picture (K); the paper has one.
        hidden: width of the head's hidden layer over the language model's (published: 0.5).
        dropout: in the head while training.
        lora: on the language model.
        taxonomy: risk types and levels.
        thresholds: calibrated, per risk type, as log-odds.
        temperature: the types' logits are divided by it.
    """

    kind: Literal["meta-token"] = "meta-token"
    tokens: int = Field(default=8, gt=0, le=1024)
    hidden: float = Field(default=0.5, gt=0, le=8)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    lora: LoraSettings = LoraSettings()
    taxonomy: Taxonomy = DEFAULT_TAXONOMY
    thresholds: dict[str, Threshold] = Field(default={})
    temperature: Temperature = 1.0

    @property
    def lora_settings(self) -> LoraSettings:
        return self.lora

    @model_validator(mode="after")
    def _thresholds_fit(self) -> "MetaTokenSettings":
        problem = thresholds_problem(self.taxonomy, self.taxonomy.types, self.thresholds)
        if problem:
            raise ValueError(problem)
        return self


class MetaModules(nn.Module):
    """The tokens, and a head of two linear layers on a hidden state.

    Args:
        width: of the language model (D).
        settings: the design.
        std: of the tokens at the start.
    """

    def __init__(self, width: int, settings: MetaTokenSettings, std: float = 0.02) -> None:
        super().__init__()
        self.types = len(settings.taxonomy.labels)
        hidden = max(1, round(width * settings.hidden))
        self.tokens = SafetyTokens(settings.tokens, width, std)
        self.head = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, self.types + len(settings.taxonomy.levels)),
        )

    def forward(self, states: torch.Tensor) -> HeadOutput:
        """States (N, D) -> logits (N, types + 1) and (N, levels); no attention."""
        logits = self.head(states.to(self.tokens.weight))
        types, levels = logits[:, : self.types], logits[:, self.types :]
        return HeadOutput(types, levels, types.new_zeros(len(types), self.types - 1, 0))


class MetaToken(Defence):
    """Tokens, head and LoRA on one base.

    Args:
        backbone: the base.
        settings: design and calibration.
        seed: of the first weights.
    """

    kind = "meta-token"
    settings_type = MetaTokenSettings
    images_only = False
    judges = True
    needs_training = True
    source = "SafeLLaVA, arXiv 2506.04704; code: youngwanLEE/holisafe"
    leaves_out = (
        "its 20 categories and its data: the same records, types and levels as all others. Added to it: a level, the "
        "policy's hint in the second call, several tokens, and one run of the vision tower for both calls"
    )
    modules: MetaModules
    lora: Lora

    def __init__(self, backbone: Backbone, settings: MetaTokenSettings | None = None, seed: int = SEED) -> None:
        super().__init__(backbone, settings)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.modules = MetaModules(backbone.sizes.text_width, self.settings, embedding_scale(backbone))
            self.modules.to(backbone.device).eval()
            self.lora = Lora(backbone.language_model, self.settings.lora, backbone.lock)
        self.fingerprint, self.trained = backbone.fingerprint(), False

    @classmethod
    def shapes(cls, settings: MetaTokenSettings, sizes: BaseSizes) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {name: one.shape for name, one in MetaModules(sizes.text_width, settings).state_dict().items()}

    def policy_for(self, policy: Policy) -> Policy:
        """Its rules for the types this one knows."""
        types = self.settings.taxonomy.types
        rules = {name: rule for name, rule in check_policy(policy).rules.items() if name in types}
        own = policy.model_copy(update={"rules": rules})
        own.check(self.settings.taxonomy)
        return own

    def default_policy(self) -> Policy:
        return Policy.default(self.settings.taxonomy)

    def around(self, call: Call, answer: Answering) -> Answer:
        call, routes = self._judged(call)
        rows, declined = ([row for row, one in enumerate(routes) if (one.by == "policy") is by] for by in (False, True))
        if not declined:
            return answer(self._worded(call, routes))
        return call.divided(
            [
                (rows, lambda part: answer(self._worded(part, [routes[row] for row in rows]))),
                (declined, lambda part: refused(part, [routes[row].refusal for row in declined])),
            ]
        )

    def prepared(self, call: Call) -> Call:
        """Judged, with the tokens behind pictures; rows that the policy refuses are left out."""
        call, routes = self._judged(call)
        rows = not_refused(call, routes)
        return self._worded(call.take(rows), [routes[row] for row in rows]) if rows else call.take(rows)

    def _judged(self, call: Call) -> tuple[Call, list[Route]]:
        """The call with its images' features, and what follows for each row from what the caller asked."""
        policy, on = self.policy_for(call.choices["policy"]), self.on(call)
        call = call.encoded()
        routes = [Route("base") for _ in on]
        rows = [row for row, count in enumerate(call.counts) if count and on[row]]
        if not rows:
            return call, routes
        asked = (call.origin or call).take(rows)
        inputs = self.inputs([self._sample(asked, row, Steer()) for row in range(len(asked))])
        with self._mounted([True] * len(asked)):
            found = self.read(inputs, logits_to_keep=1)[0]
        verdicts = iter(self._verdicts(found, policy, asked))
        for place, row in enumerate(rows):
            record, own = call.records[call.rows[row]], [next(verdicts) for _ in range(call.counts[row])]
            record.judged(own)
            record.usage.lm_passes += 1
            record.usage.prompt_tokens += len(asked.prompt(place)) + call.counts[row] * self.settings.tokens
            routes[row] = route(own, policy, "always").hinting(record)
        return call, routes

    def _worded(self, call: Call, routes: Sequence[Route]) -> Call:
        """With the tokens, hints and LoRA, on the rows it is on for."""
        on = self.on(call)
        samples = [
            self._sample(call, row, Steer(hint=one.steer.hint))
            if on[row]
            else Sample(call.prompt(row), call.features_of(row))
            for row, one in enumerate(routes)
        ]
        inputs = self.inputs(samples)
        return call.reworded(inputs.input_ids, inputs.attention_mask, inputs.features).mounting(self._mounted, on)

    def inputs(self, samples: Sequence[Sample]) -> LmInputs:
        """The samples as a batch."""
        return build_inputs(self.backbone, self.modules.tokens(), samples)

    def sample(
        self,
        prompt: Sequence[int],
        features: Sequence[torch.Tensor],
        steer: Steer | None = None,
        answer: Sequence[int] | None = None,
    ) -> Sample:
        """A prompt (image tokens expanded) with the meta tokens behind each of its pictures, with features (P, D)."""
        tokens, image = self.modules.tokens(), self.backbone.image_token_id
        ids, left = list[int](), [len(feature) for feature in features]
        for token in prompt:
            ids.append(token)
            if token == image:
                left[0] -= 1
                if left[0] == 0:
                    ids += [image] * len(tokens)
                    left.pop(0)
        longer = [torch.cat([feature, tokens.to(feature.device, feature.dtype)]) for feature in features]
        return Sample(ids, longer, steer or Steer(), answer)

    def read(self, inputs: LmInputs, **options: Any) -> tuple[HeadOutput, Any]:
        """One call of the language model: what the head says about each picture, and the call's output."""
        with noted(self.backbone.final_norm) as found:
            output = lm_forward(self.backbone, inputs, use_cache=False, **options)
        states = found[-1]  # (B, T, D)
        places = inputs.input_ids == self.backbone.image_token_id
        images = states[places.to(states.device)].split([len(feature) for feature in inputs.features])
        return self.modules(torch.stack([one[-self.settings.tokens :].mean(0) for one in images])), output

    def _sample(self, call: Call, row: int, steer: Steer) -> Sample:
        return self.sample(call.prompt(row), call.features_of(row), steer)

    def _verdicts(self, output: HeadOutput, policy: Policy, call: Call) -> list[Verdict]:
        settings = self.settings
        found = policy.decisions(judgements(output, settings.temperature), settings.taxonomy, settings.thresholds)
        places = [place for count in call.counts for place in range(count)]
        return [found.check().verdict(row, image_index=place) for row, place in enumerate(places)]

    def _mounted(self, rows: list[bool]) -> AbstractContextManager[Any]:
        return self.lora.mounted(any(rows), rows)
