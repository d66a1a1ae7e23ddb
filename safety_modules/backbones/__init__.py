"""Base models: one small protocol, one file per code base; `find_backbone` picks it for a live model."""

import sys
from importlib import import_module
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
    if kind.__name__ in _TILED:
        tiled = tiled_backbone(kind.__name__)
        if kind is tiled.guarded_classes[0]:
            raise AttachError(ATTACHED)
        if kind is tiled.guarded_classes[0].__bases__[0]:
            backbone: Backbone = tiled(model, processor)
            return backbone
    guarded: tuple[type, ...] = (GuardedLlava,)
    if "llava.model" in sys.modules:  # whoever has a model of that package has imported it
        from safety_modules.backbones.llava_package import GuardedLlavaLlama, LlavaLlamaForCausalLM, LlavaPackage

        guarded = (GuardedLlava, GuardedLlavaLlama)
        if kind is LlavaLlamaForCausalLM:
            return LlavaPackage(model, processor)
    if isinstance(model, guarded):
        raise AttachError(ATTACHED)
    raise AttachError(
        f"model not supported: expected LlavaForConditionalGeneration or {' or '.join(_TILED)} (transformers), or "
        f"LlavaLlamaForCausalLM (llava), got {kind.__name__}. {_NEXT_STEPS.get(kind.__name__, _OTHER_MODEL)}"
    )


def tiled_backbone(architecture: str) -> Any:
    """The class of the backbone for this class of transformers' models, one that cuts pictures into tiles."""
    file, name = _TILED[architecture]
    return getattr(import_module(f"safety_modules.backbones.{file}"), name)


_TILED = {
    "LlavaNextForConditionalGeneration": ("hf_llava_next", "HFLlavaNext"),
    "LlavaOnevisionForConditionalGeneration": ("hf_llava_onevision", "HFLlavaOnevision"),
}
"""Families that cut pictures into tiles: the class, and file and name of its backbone."""
_OTHER_MODEL = (
    "Pass the base itself (no wrapper, no subclass): a LLaVA of transformers, or a LLaVA-1.5 of the llava package."
)
_NEXT_STEPS = {
    "LlavaModel": "It has no language-model head: load the checkpoint with LlavaForConditionalGeneration.",
}
