"""`external`: a classifier in front of the model that refuses with one fixed sentence what it takes for risky.

The form of image guards that stand before a model, such as LlavaGuard (arXiv 2406.05113) or ShieldGemma 2
(arXiv 2504.01081): no hint, no tokens, no LoRA, and no word about why.
"""

from os import PathLike
from typing import Any

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.format import DTYPES
from safety_modules.evaluation.systems.guarded import Guarded

REFUSAL = "I'm sorry, I can't help with that."


class External(Guarded):
    """The head of an adapter as a classifier; the base answers what it lets pass.

    Args:
        model: the base, with nothing attached.
        processor: its processor.
        adapter: folder or hub id.
    """

    source = "the form of LlavaGuard, arXiv 2406.05113, and ShieldGemma 2, arXiv 2504.01081"
    leaves_out = (
        "a model of its own: the classifier is our head on the base's vision tower, far smaller than those, and it "
        "sees the question too"
    )

    def __init__(self, model: Any, processor: Any, adapter: str | PathLike[str]) -> None:
        super().__init__(model, processor, adapter, "gated")
        self.name = "external"
        policy = self.attachment.policy
        for name in policy.rules:
            policy = policy.with_rule(name, action="refuse", refusal=REFUSAL)
        self.attachment.policy = policy
        modules = self.attachment.modules
        parts = sum(parameter.numel() for parameter in modules.parameters())
        self.extra_parameters = parts - modules.lm_tokens.weight.numel()
        dtype = DTYPES[read_adapter(self.folder).config.dtype]
        self.extra_mb = self.extra_parameters * dtype.itemsize / 1e6
