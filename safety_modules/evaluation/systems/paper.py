"""`paper`: the published design (arXiv 2405.13581, 2411.11543) with the published two calls."""

from os import PathLike
from typing import Any

import torch

from safety_modules.errors import ConfigError
from safety_modules.evaluation.cases import Reply
from safety_modules.evaluation.systems.asking import Question, Said
from safety_modules.evaluation.systems.guarded import Guarded
from safety_modules.policy.policy import Policy


class Paper(Guarded):
    """Adapter of the `paper` design; tokens and LoRA on every picture, and a full call of the model for the verdict.

    Args:
        model: the base, with nothing attached.
        processor: its processor.
        adapter: folder of an adapter with `SafetyConfig.preset("paper")`.
        policy: what to do about verdicts; default: Policy.default().

    Raises:
        ConfigError: an adapter of another design.
    """

    source = "arXiv 2405.13581 and 2411.11543; code: Yingshui-Tan/PSA-VL"
    leaves_out = (
        "a projector as wide as vision tower and tokens together; one row at a time; a stage I that trains on the "
        "language model's loss too. Trained by this package's recipe, LoRA and safety modules together"
    )

    def __init__(self, model: Any, processor: Any, adapter: str | PathLike[str], policy: Policy | None = None) -> None:
        super().__init__(model, processor, adapter, "always", policy)
        self.name = "paper"
        design = self.attachment.config
        if (design.projector, design.query) != ("c_abstractor", "first_token"):
            raise ConfigError(
                "not the published design: expected an adapter with projector c_abstractor and query first_token, got "
                f"{design.projector} and {design.query}. Train one: safety-modules train --preset paper."
            )

    def generate(self, **inputs: Any) -> Any:
        """A full call for the verdict, whose language model nobody listens to; then the guarded one."""
        if inputs.get("pixel_values") is not None:
            with torch.no_grad():
                self.model(**{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")})
        return super().generate(**inputs)

    def _reply(self, question: Question, said: Said) -> Reply:
        reply = super()._reply(question, said)
        if not question.images:
            return reply
        more = {
            "prompt_tokens": reply.prompt_tokens + len(said.prompt),
            "tower_runs": 2 * reply.tower_runs,
            "lm_passes": reply.lm_passes + 1,
        }
        return reply.model_copy(update=more)
