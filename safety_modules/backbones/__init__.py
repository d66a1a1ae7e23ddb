"""Base models: one small protocol, one file per code base; `find_backbone` picks it for a live model."""

import sys
from typing import TYPE_CHECKING, Any

from safety_modules.errors import AttachError
from safety_modules.io.lazy import lazy_exports
from safety_modules.version import tell_never_tried

if TYPE_CHECKING:
    from safety_modules.backbones.base import Backbone, ImageFeatures

__all__ = ["Backbone", "ImageFeatures", "find_backbone"]


# Processes that only decode pictures import this package too: a backbone's libraries take seconds.
__getattr__, __dir__ = lazy_exports(globals(), {"Backbone": "base", "ImageFeatures": "base"})


def find_backbone(model: Any, processor: Any) -> "Backbone":
    """The backbone for this model.

    Args:
        model: a live base model; or a `PeftModel` around one, whose adapter then counts as part of the base.
        processor: the processor it was loaded with; with the original llava package, the tokenizer.

    Raises:
        AttachError: the model's class is not supported, or safety is attached to it already.
    """
    from transformers import LlavaForConditionalGeneration

    from safety_modules.backbones.base import ATTACHED
    from safety_modules.backbones.hf_llava import GuardedLlava, HFLlava
    from safety_modules.backbones.weights import without_peft

    tell_never_tried()
    model = without_peft(model)
    kind = type(model)
    if kind is LlavaForConditionalGeneration:
        return HFLlava(model, processor)
    guarded: tuple[type, ...] = (GuardedLlava,)
    if "llava.model" in sys.modules:  # whoever has a model of that package has imported it
        from safety_modules.backbones.llava_package import GuardedLlavaLlama, LlavaLlamaForCausalLM, LlavaPackage

        guarded = (GuardedLlava, GuardedLlavaLlama)
        if kind is LlavaLlamaForCausalLM:
            return LlavaPackage(model, processor)
    if isinstance(model, guarded):
        raise AttachError(ATTACHED)
    raise AttachError(
        "model not supported: expected LlavaForConditionalGeneration (transformers) or LlavaLlamaForCausalLM (llava), "
        f"got {kind.__name__}. {_NEXT_STEPS.get(kind.__name__, _OTHER_MODEL)}"
    )


_OTHER_MODEL = "Pass the base itself (no wrapper, no subclass): a LLaVA-1.5 of transformers or of the llava package."
_NEXT_STEPS = {
    "LlavaNextForConditionalGeneration": "LLaVA-NeXT cuts a picture into a varying number of tiles, for which the "
    "guard has no grid of patches: use a LLaVA-1.5 checkpoint.",
    "LlavaModel": "It has no language-model head: load the checkpoint with LlavaForConditionalGeneration.",
}
