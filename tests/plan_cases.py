"""A LLaVA small enough to be planned for in no time."""

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig


def small(blocks: int = 4) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    text = LlamaConfig(
        vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=blocks, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return LlavaConfig(vision_config=vision, text_config=text)
