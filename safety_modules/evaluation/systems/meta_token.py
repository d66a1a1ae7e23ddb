"""`meta-token`: learned tokens behind the picture, a head on them, LoRA always on (SafeLLaVA's form)."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch

from safety_modules.backbones import find_backbone
from safety_modules.defences.guard.batch import Batch, read_batch
from safety_modules.defences.guard.modules import HeadOutput
from safety_modules.defences.guard.options import cache_length_restored
from safety_modules.defences.guard.plan import RowPlan, plan_row
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.systems.asking import encode, greedy, questions_of, read_answers
from safety_modules.evaluation.systems.guarded import judged
from safety_modules.evaluation.systems.meta_parts import MetaModel, MetaSettings
from safety_modules.evaluation.systems.weights import read_weights
from safety_modules.policy.policy import Policy
from safety_modules.policy.scores import judgements
from safety_modules.policy.verdict import Verdict


class MetaToken:
    """A base with meta tokens: one call for the verdict, then one that answers, with the policy's hint.

    Args:
        model: the base, with nothing attached.
        processor: its processor.
        folder: trained weights.
        policy: what to do about verdicts; default: Policy.default().

    Raises:
        AdapterError: the folder is refused.
    """

    name = "meta-token"
    source = "SafeLLaVA, arXiv 2506.04704; code: youngwanLEE/holisafe"
    leaves_out = (
        "its 20 categories and its data: the same records, types and levels as all others. Added to it: a level, the "
        "policy's hint in the second call, several tokens, and one run of the vision tower for both calls"
    )

    def __init__(self, model: Any, processor: Any, folder: str | PathLike[str], policy: Policy | None = None) -> None:
        self.model, self.processor = model, processor
        backbone = find_backbone(model, processor)
        weights = read_weights(folder, self.name, backbone.fingerprint)
        self.meta = MetaModel(backbone, MetaSettings.model_validate(weights.record.settings))
        self.meta.load(weights.tensors, folder)
        self.policy = policy or Policy.default()
        self.digest = weights.record.sha256
        self.extra_mb = weights.megabytes
        self.extra_parameters = self.meta.parameters()

    def answer(self, cases: Sequence[Case], max_new_tokens: int) -> list[Reply]:
        """Greedy answers to a batch of cases, in order."""
        questions = questions_of(cases)
        with self.meta.attached():
            inputs = encode(self.processor, questions).to(self.model.device)
            batch = read_batch(self.meta.backbone, dict(inputs))
            features = [] if batch.pixels is None else self.meta.backbone.encode_images(batch.pixels).projected
            plans = self._judge(batch, features)
            samples = [
                self.meta.sample(batch.prompt(row), _own(batch, features, row), plan.steer.hint)
                for row, plan in enumerate(plans)
            ]
            answers = self._generate(samples, max_new_tokens)
        tokens = self.meta.settings.tokens
        replies = []
        for row, (plan, sample, (text, count)) in enumerate(zip(plans, samples, answers, strict=True)):
            images = batch.counts[row]
            ids = sample.prompt
            if plan.steer.hint is not None:
                ids = self.meta.backbone.insert_hint(ids, plan.steer.hint)
            first = len(batch.prompt(row)) + images * tokens if images else 0
            replies.append(
                Reply(
                    text=text,
                    prompt_tokens=first + len(ids),
                    new_tokens=count,
                    tower_runs=images,
                    lm_passes=2 if images else 1,
                    **judged(plan.verdict),
                )
            )
        return replies

    def _judge(self, batch: Batch, features: Sequence[torch.Tensor]) -> list[RowPlan]:
        """The first call: verdicts of the rows with pictures, and the hint that follows."""
        rows = [row for row, count in enumerate(batch.counts) if count]
        plans = [RowPlan("base") for _ in batch.counts]
        if rows:
            samples = [self.meta.sample(batch.prompt(row), _own(batch, features, row)) for row in rows]
            verdicts = iter(self.verdicts(*self.meta.read(self.meta.inputs(samples), logits_to_keep=1)[:2]))
            for row in rows:
                plans[row] = plan_row([next(verdicts) for _ in range(batch.counts[row])], self.policy, "always")
        return plans

    def verdicts(self, types: torch.Tensor, levels: torch.Tensor) -> list[Verdict]:
        """From logits (N, types + 1) and (N, levels)."""
        settings = self.meta.settings
        found = judgements(HeadOutput(types, levels, types), settings.temperature)
        return [
            self.policy.decide(one, level, settings.taxonomy, settings.limits)
            for one, level in zip(found.types, found.levels, strict=True)
        ]

    def _generate(self, samples: Sequence[Any], max_new_tokens: int) -> list[tuple[str, int]]:
        """The second call."""
        backbone, inputs = self.meta.backbone, self.meta.inputs(samples)
        stub = backbone.pixel_stub(len(inputs.features))
        pictures = {} if stub is None else {"pixel_values": stub}  # generate would try to encode None
        with backbone.planned(inputs.features, inputs.images_per_row), cache_length_restored(backbone.model):
            output = backbone.base_generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                **pictures,
                **greedy(self.processor, max_new_tokens),
            )
        return read_answers(self.model, self.processor, output.sequences[:, inputs.input_ids.shape[1] :])

    def describe(self) -> dict[str, Any]:
        """What identifies it in a report."""
        settings = self.meta.settings
        return {
            "system": self.name,
            "weights": self.digest,
            "thresholds": dict(settings.limits),
            "temperature": settings.temperature,
        }

    def close(self) -> None:
        """Leave the base as it was before; it is so between any two calls."""
        self.meta.attachment.detach()


def _own(batch: Batch, features: Sequence[torch.Tensor], row: int) -> list[torch.Tensor]:
    return [features[image] for image in batch.images_of([row])]
