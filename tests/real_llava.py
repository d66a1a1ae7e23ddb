"""LLaVA-1.5-7B as llava-hf has it, but for its weights: its configuration, real tokenizer, processor and template."""

import json
import lzma
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoProcessor, CLIPImageProcessor, LlavaForConditionalGeneration

from safety_modules.backbones.bases import published_config

VOCABULARIES = Path(__file__).parent / "vocabularies"
IMAGE, PAD = 32_000, 32_001

# Written after the documentation of llava-hf/llava-1.5-7b-hf: a turn's pictures first, then its text and a space.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() }}: {% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def vocabulary(name: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Tokens by id, and merges as pairs of ids."""
    words, _, merges = lzma.decompress((VOCABULARIES / f"{name}.xz").read_bytes()).partition(b"\0")
    pairs = np.frombuffer(merges, "<u2").reshape(-1, 2).tolist()
    return words.decode().split("\n"), [(left, right) for left, right in pairs]


def tokenizer(name: str = "llama", legacy: bool = False) -> Tokenizer:
    """`legacy`: with a space before every piece of text between special tokens, not before the first alone."""
    tokens, merges = vocabulary(name)
    words = {token: number for number, token in enumerate(tokens)}
    pairs = [(tokens[left], tokens[right]) for left, right in merges]
    made = Tokenizer(models.BPE(words, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    made.add_special_tokens([AddedToken(word, normalized=False) for word in ("<unk>", "<s>", "</s>")])
    made.add_special_tokens([AddedToken(word, normalized=False) for word in ("<image>", "<pad>")])
    return made


def save_processor(folder: Path, name: str = "llama", legacy: bool = False, image_size: int = 336) -> Path:
    """The processor's files as the checkpoint has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(name, legacy).save(str(folder / "tokenizer.json"))
    write(
        folder / "tokenizer_config.json",
        tokenizer_class="LlamaTokenizer",
        legacy=legacy,
        add_bos_token=True,
        add_eos_token=False,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=10**30,
    )
    write(
        folder / "processor_config.json",
        processor_class="LlavaProcessor",
        image_token="<image>",
        num_additional_image_tokens=1,
        patch_size=14,
        vision_feature_select_strategy="default",
    )
    size = {"height": image_size, "width": image_size}
    CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=size).save_pretrained(folder)
    write(folder / "chat_template.json", chat_template=TEMPLATE)
    return folder


def write(file: Path, **record: Any) -> None:
    file.write_text(json.dumps(record, indent=1), encoding="utf-8")


def load_processor(folder: Path, **options: Any) -> Any:
    """As users load it."""
    return AutoProcessor.from_pretrained(save_processor(folder, **options))


def small_model(image_size: int = 56, width: int = 64) -> LlavaForConditionalGeneration:
    """LLaVA-1.5-7B's own configuration with few layers, small widths and pictures, and random weights."""
    config = published_config("llava-1.5-7b")
    vision, text = config.vision_config, config.text_config
    vision.hidden_size, vision.intermediate_size, vision.num_attention_heads = 32, 64, 2
    vision.num_hidden_layers, vision.image_size = 3, image_size
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = width, 2 * width, 2
    text.num_attention_heads = text.num_key_value_heads = 4
    text.bos_token_id, text.eos_token_id, text.pad_token_id = 1, 2, PAD
    config.image_token_id, config.image_seq_length = IMAGE, (image_size // vision.patch_size) ** 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlavaForConditionalGeneration(config).eval()
        with torch.no_grad():  # so that answers depend on what is asked and shown
            for part in (model.model.language_model.layers, model.model.multi_modal_projector):
                for weight in part.parameters():
                    if weight.ndim == 2:
                        weight.mul_(10)
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=PAD)
    return model


def runs(ids: list[int]) -> list[int]:
    """With a run of image tokens as one."""
    return ids[:1] + [b for a, b in pairwise(ids) if (a, b) != (IMAGE, IMAGE)]
