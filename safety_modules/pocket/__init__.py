"""The embedded world: a small true LLaVA, `llava-pocket`, and the pictures and questions it lives on.

from safety_modules import pocket
model, processor = pocket.load()
records = pocket.make("attack", 8, split="validation")
"""

from typing import TYPE_CHECKING

from safety_modules.paths import adapter_dir, checkpoint_dir, recipe_dir
from safety_modules.pocket.splits import make

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

__all__ = ["adapter_dir", "checkpoint_dir", "load", "make", "prompt", "recipe_dir"]


def load() -> "tuple[LlavaForConditionalGeneration, LlavaProcessor]":
    """The embedded base in fp32 on the CPU, and its processor.

    Raises:
        DataError: the checkpoint is not there.
        ConfigError: it is not whole.
    """
    from safety_modules.backbones.bases import load_whole

    return load_whole(checkpoint_dir())


def prompt(processor: "LlavaProcessor", question: str, image: bool = True) -> str:
    """One user turn in the base's chat format: `USER: <image>\\nquestion ASSISTANT:`."""
    content = [{"type": "image"}] if image else []
    turn = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    return processor.apply_chat_template([turn], add_generation_prompt=True)
