"""A tiny CLIPModel whose vision tower is the tiny base's own, with a tokenizer of whole words; and sentences for it."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from safety_modules.training.words import Words

LENGTH = 16
WORDS = Words(
    templates=("{}", "a picture of {}"),
    types={
        "illegal": {"high": ("a bomb",), "low": ("a cigarette",)},
        "privacy": {"medium": ("an eye", "a credit card")},
    },
    harmless=("a dog", "a cup of tea", "a tree"),
)


def tiny_clip(base: LlavaForConditionalGeneration, seed: int = 3) -> CLIPModel:
    """Random text half and projections; the tower is the base's."""
    vision = base.config.vision_config.to_dict()
    text = CLIPTextConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=38,
        eos_token_id=39,
        pad_token_id=0,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=12)).eval()
        with torch.no_grad():
            clip.visual_projection.weight.normal_()
            clip.text_projection.weight.normal_()
        tower = {
            name.removeprefix("vision_model."): value for name, value in base.model.vision_tower.state_dict().items()
        }
        inner = getattr(clip.vision_model, "vision_model", clip.vision_model)
        inner.load_state_dict(tower)
        with torch.no_grad():  # gains and shifts of their own, as trained ones have
            inner.post_layernorm.weight.uniform_(0.5, 1.5)
            inner.post_layernorm.bias.normal_(std=0.2)
    return clip


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A few words; the end has the highest id."""
    words = ["a", "an", "of", "picture", "bomb", "cigarette", "eye", "credit", "card", "dog", "cup", "tea", "tree"]
    names = ["<pad>", "<unk>", *words, *(f"<{n}>" for n in range(len(words) + 2, 38)), "<start>", "<end>"]
    tokenizer = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 38), ("<end>", 39)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<start>", eos_token="<end>"
    )


def saved_clip(clip: CLIPModel, folder: Path) -> Path:
    """As transformers writes it."""
    clip.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
