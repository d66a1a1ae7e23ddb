"""Attach safety to a LLaVA that is already trained.

Quick start, on the embedded pocket model (a true LLaVA, small enough for a CPU):

    from safety_modules import attach_safety, pocket

    model, processor = pocket.load()
    safety = attach_safety(model, processor, adapter=pocket.adapter_dir())
    inputs = processor(images=image, text="USER: <image>\\nWhat is this? ASSISTANT:", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=60)  # guarded; safety=False is the base model's answer
    verdict = safety.classify(images=[image], questions=["What is this?"])[0]
    safety.detach()  # the base model again, bit for bit

The public names are imported on first use, so `import safety_modules` needs neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from safety_modules.io.lazy import lazy_exports
from safety_modules.version import __version__ as __version__

if TYPE_CHECKING:
    from safety_modules.attach.attach import SafetyAttachment, attach_safety, detach_safety
    from safety_modules.config import SafetyConfig
    from safety_modules.policy.policy import Policy
    from safety_modules.policy.verdict import Verdict
    from safety_modules.taxonomy import Taxonomy
    from safety_modules.training import train_safety

__all__ = [
    "Policy",
    "SafetyAttachment",
    "SafetyConfig",
    "Taxonomy",
    "Verdict",
    "attach_safety",
    "detach_safety",
    "train_safety",
]

_HOMES = {
    "Policy": "policy.policy",
    "SafetyAttachment": "attach.attachment",
    "SafetyConfig": "config",
    "Taxonomy": "taxonomy",
    "Verdict": "policy.verdict",
    "attach_safety": "attach.attach",
    "detach_safety": "attach.attach",
    "train_safety": "training",
}

__getattr__, __dir__ = lazy_exports(globals(), _HOMES)
