"""Bases to measure on. Time does not depend on the weights, so all but pocket are random."""

from typing import Any

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from safety_modules.backbones.bases import PUBLISHED, load_whole, published_config
from safety_modules.paths import checkpoint_dir

NAMES = ("pocket", "wide", "wide-336", *PUBLISHED)


def load(name: str, device: str, dtype: torch.dtype, blocks: int | None = None) -> tuple[Any, Any]:
    """Model and processor.

    Args:
        name: `pocket`; `wide`, one block of LLaVA-1.5-7B's language model and two of its tower, on small pictures;
            `wide-336`, the same on pictures of the full size, 576 patches; or a published base, all of it (the 7B
            takes 14 GB in bfloat16).
        device: where it lies.
        dtype: of its weights.
        blocks: of a published base: only so many of its language model, and one more of its tower (the last one's
            features are not used).
    """
    if name == "pocket":
        model, processor = load_whole(checkpoint_dir(), dtype=dtype)
        return model.to(device).eval(), processor
    tokenizer = AutoProcessor.from_pretrained(checkpoint_dir()).tokenizer
    config = published_config("llava-1.5-7b" if name.startswith("wide") else name)
    vision, text = config.vision_config, config.text_config
    if name.startswith("wide"):
        text.vocab_size, blocks = len(tokenizer), 1
    if name == "wide":
        vision.image_size = 112
    if blocks is not None:
        vision.num_hidden_layers, text.num_hidden_layers = blocks + 1, blocks
    processor = fit_processor(config)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, processor


def fit_processor(config: Any) -> LlavaProcessor:
    """Pocket's processor with pictures as large as the config says, whose ids and tokens the config then names."""
    pocket = AutoProcessor.from_pretrained(checkpoint_dir())
    tokenizer, vision = pocket.tokenizer, config.vision_config
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, token, getattr(tokenizer, token))
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config.image_seq_length = (vision.image_size // vision.patch_size) ** 2
    size = vision.image_size
    return LlavaProcessor(
        image_processor=type(pocket.image_processor)(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=pocket.chat_template,
    )
