"""Bases to measure on. Time does not depend on the weights, so all but pocket are random."""

from typing import Any

import torch
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from safety_modules.paths import checkpoint_dir

NAMES = ("pocket", "wide", "llava-1.5-7b")
PATCH = 14


def load(name: str, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor.

    Args:
        name: `pocket`; `wide`, one block of LLaVA-1.5-7B's language model and two of its tower, on small pictures;
            or `llava-1.5-7b`, all of it (14 GB in bfloat16).
        device: where it lies.
        dtype: of its weights.
    """
    pocket = AutoProcessor.from_pretrained(checkpoint_dir())
    if name == "pocket":
        model = LlavaForConditionalGeneration.from_pretrained(checkpoint_dir(), dtype=dtype)
        return model.to(device).eval(), pocket
    full = name == "llava-1.5-7b"
    size = 336 if full else 112
    processor = LlavaProcessor(
        image_processor=type(pocket.image_processor)(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
        tokenizer=pocket.tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=pocket.chat_template,
    )
    tokenizer = pocket.tokenizer
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24 if full else 2,
            num_attention_heads=16,
            image_size=size,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=32_064 if full else len(tokenizer),
            num_hidden_layers=32 if full else 1,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(size // PATCH) ** 2,
    )
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
