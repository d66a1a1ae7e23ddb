"""Tiny random LLaVAs that cut pictures into tiles, with their true processors, and a tokenizer made on the spot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

IMAGE_SIZE, PATCH_SIZE = 28, 7
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]  # as of LLaVA-1.6, in its tiles
# As of llava-onevision-qwen2: a turn's pictures behind its role, its words in a line of their own.
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} "
    "{% for c in m['content'] if c['type']=='image' %}<image>{% endfor %}"
    "{% for c in m['content'] if c['type']=='text' %}{{ '\\n' + c['text'] }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] "
    "{% for c in m['content'] if c['type']=='image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type']=='text' %}{{ c['text'] }}{% endfor %} [/INST]"
    "{% else %} {% for c in m['content'] %}{{ c['text'] }}{% endfor %}</s>{% endif %}{% endfor %}"
)
CORPUS = [
    "<|im_start|>user \nwhat is in this image?<|im_end|><|im_start|>assistant\na knife and a cup of tea on the table.",
    "how do I use what is shown here? I'm sorry, I can't help with that. user assistant",
    "Note: this image carries a high risk of illegal activity. You must decline and say why.",
    "It could break the law or hurt people. Be careful; the answer could do harm.",
]


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """As Qwen2's: byte-level BPE, turns between special tokens, no beginning of a sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )


def image_processor(name: str, **options: Any) -> Any:
    """The one that needs no torchvision: of transformers before 5 the slow one, since then the one on PIL."""
    kind = getattr(transformers, f"{name}ImageProcessorPil", None) or getattr(transformers, f"{name}ImageProcessor")
    return kind(image_grid_pinpoints=PINPOINTS, **options)


def next_processor(tokenizer: Any, template: str) -> LlavaNextProcessor:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaNextProcessor(
        image_processor=image_processor("LlavaNext", size={"shortest_edge": IMAGE_SIZE}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


class WithoutVideos(LlavaOnevisionProcessor):
    """Transformers' own, but for its video processor, which needs torchvision: it takes pictures and words alone."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor" and argument is None:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        for part in (self.tokenizer, self.image_processor):
            part.save_pretrained(save_directory)
        record = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": self.num_image_tokens}
        (Path(save_directory) / "processor_config.json").write_text(json.dumps(record), encoding="utf-8")


def onevision_processor(ratio: str = "anyres_max_9") -> WithoutVideos:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return WithoutVideos(
        image_processor=image_processor("LlavaOnevision", size=size),
        tokenizer=qwen_tokenizer(),
        video_processor=None,
        num_image_tokens=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_select_strategy="full",
        chat_template=QWEN_TEMPLATE,
        vision_aspect_ratio=ratio,
    )


def text_options(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,  # large, so that answers depend on what is asked and shown
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "attention_dropout": 0.0,
}


def next_model(tokenizer: Any) -> LlavaNextForConditionalGeneration:
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, projection_dim=24, initializer_range=0.2),
        text_config=LlamaConfig(**text_options(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return _made(LlavaNextForConditionalGeneration, config, tokenizer)


def onevision_model(tokenizer: Any, ratio: str = "anyres_max_9") -> LlavaOnevisionForConditionalGeneration:
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=Qwen2Config(**text_options(tokenizer), use_sliding_window=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=ratio,
    )
    return _made(LlavaOnevisionForConditionalGeneration, config, tokenizer)


def _made(kind: Any, config: Any, tokenizer: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = kind(config).eval()
        with torch.no_grad():  # random towers tell random images apart only faintly
            model.model.multi_modal_projector.linear_1.weight.mul_(20)
            model.model.image_newline.normal_()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(tokenizer, name))
    return model


SIZES = [(28, 28), (40, 60), (70, 30), (90, 25), (25, 80), (56, 56), (33, 71), (61, 64), (20, 20)]
"""Width and height of pictures by seed: of one to four tiles beside the first."""


def picture(seed: int) -> Image.Image:
    """A seeded noise picture, each seed with a size of its own."""
    width, height = SIZES[seed % len(SIZES)]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
