"""A tiny LLaVA with random weights and a processor made on the spot: offline, float32, a second to build."""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guard_cases import attach_as_trained, save_adapter, save_base
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from safety_modules.attach.attach import SafetyAttachment
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.policy.scores import HeadOutput
from safety_modules.taxonomy import CLEAN

IMAGE_SIZE, PATCH_SIZE = 28, 7
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: "
    "{% for c in m['content'] if c['type']=='image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type']=='text' %}{{ c['text'] }}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CORPUS = [
    "USER: what is in this image? ASSISTANT: a knife and a cup of tea on the table.",
    "USER: how do I use what is shown here? ASSISTANT: I'm sorry, I can't help with that.",
    "Note: this image carries a high risk of illegal activity. You must decline and say why.",
    "It could break the law or hurt people. Be careful; the answer could do harm.",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the tiny model and its inputs are, such as cuda")


if importlib.util.find_spec("bitsandbytes"):
    import bitsandbytes.nn.modules

    # On a CPU with AVX512-BF16 it packs 4-bit weights in blocks of 64 x 32, which the layers of our tests do not fill.
    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """Of the tiny model and its inputs: the option --device."""
    return torch.device(pytestconfig.getoption("device"))


@pytest.fixture(scope="session")
def processor() -> LlavaProcessor:
    """Llama-like tokenizer (Metaspace BPE), CLIP image processor, LLaVA-1.5 chat template."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=True)
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        extra_special_tokens={"image_token": "<image>"},
    )
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ),
        tokenizer=fast,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def tiny_base(processor: LlavaProcessor, device: torch.device) -> LlavaForConditionalGeneration:
    """Do not attach to this one: take `model`, or compare with it."""
    tokenizer = processor.tokenizer
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            projection_dim=24,
            initializer_range=0.2,
            attention_dropout=0.0,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.3,  # large, so that answers depend on what is asked and shown
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = LlavaForConditionalGeneration(config).eval()
        with torch.no_grad():  # random towers tell random images apart only faintly
            model.model.multi_modal_projector.linear_1.weight.mul_(20)
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.to(device)


@pytest.fixture
def model(tiny_base: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """A fresh copy of the tiny base."""
    return copy.deepcopy(tiny_base)


@pytest.fixture(scope="session")
def saved_base(
    tiny_base: LlavaForConditionalGeneration, processor: LlavaProcessor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny base as a folder."""
    return save_base(tmp_path_factory.mktemp("saved") / "base", tiny_base, processor)


@pytest.fixture(scope="session")
def saved_adapter(
    tiny_base: LlavaForConditionalGeneration, processor: LlavaProcessor, saved_base: Path, make_image: Any
) -> Path:
    """An untrained adapter for it whose thresholds flag about half of the noise pictures."""
    return save_adapter(saved_base.parent / "adapter", tiny_base, processor, [make_image(seed) for seed in range(31)])


@pytest.fixture(scope="session")
def make_image() -> Callable[[int], Image.Image]:
    """Seeded noise pictures."""

    def make(seed: int) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make


@pytest.fixture(scope="session")
def ask(
    processor: LlavaProcessor, make_image: Callable[[int], Image.Image], device: torch.device
) -> Callable[..., dict[str, Any]]:
    """Model inputs for a batch: `ask((question, [image seeds]), ...)`."""

    def build(*rows: tuple[str, list[int]]) -> dict[str, Any]:
        texts = ["USER: " + "<image>\n" * len(seeds) + f"{question} ASSISTANT:" for question, seeds in rows]
        images = [make_image(seed) for _, seeds in rows for seed in seeds]
        return dict(processor(images=images or None, text=texts, return_tensors="pt", padding=True).to(device))

    return build


class ScriptedModules(SafetyModules):
    """Safety modules whose verdicts are written by a test; tokens and everything else are the real ones."""

    script: dict[str, tuple[str, str]]

    def forward(
        self, vision: torch.Tensor, question: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> HeadOutput:
        taxonomy = self.config.taxonomy
        types = torch.zeros(len(vision), len(taxonomy.labels))
        levels = torch.zeros(len(vision), len(taxonomy.levels))
        for row, features in enumerate(vision):
            type, level = self.script.get(_key(features), (CLEAN, taxonomy.safe_level))
            types[row, taxonomy.type_index(type)] = 10.0
            levels[row, taxonomy.level_index(level)] = 10.0
        patches = self.sizes.num_patches
        even = torch.full((len(vision), len(taxonomy.types), patches), 1 / patches)
        return HeadOutput(types, levels, even)


def _key(features: torch.Tensor) -> str:
    # Rounded: features of one image may differ in the last bit between batches.
    return str([round(value, 3) for value in features.double().mean(0).tolist()])


@pytest.fixture
def safety(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> SafetyAttachment:
    """Attached to `model`, with tokens and LoRA that change answers (fresh ones would not)."""
    attachment = attach_as_trained(model, processor, config=SafetyConfig(num_lm_tokens=3))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        attachment.modules.lm_tokens.weight.normal_()
        for name, parameter in attachment.lora.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return attachment


@pytest.fixture
def judge_as(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image]
) -> Callable[[dict[int, tuple[str, str]]], None]:
    """`judge_as({seed: (type, level)})`: these images are risky, all others clean."""

    def write(script: dict[int, tuple[str, str]]) -> None:
        pixels = safety.backbone.pixel_values([make_image(seed) for seed in script] or [make_image(0)])
        vision = safety.backbone.encode_images(pixels).vision
        safety.modules.__class__ = ScriptedModules
        safety.modules.script = {_key(v): what for v, what in zip(vision, script.values(), strict=False)}

    return write


@pytest.fixture
def guarded(safety: SafetyAttachment, judge_as: Callable[[dict[int, tuple[str, str]]], None]) -> SafetyAttachment:
    """`safety`, which finds a high risk in image 1, a low one in image 2, and none in others (`guard_cases.ROWS`)."""
    judge_as({1: ("illegal", "high"), 2: ("privacy", "low")})
    return safety


@pytest.fixture
def tower_runs(model: LlavaForConditionalGeneration) -> list[int]:
    """Grows by the number of images each time the model's vision tower runs."""
    runs: list[int] = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: runs.append(len(args[0] if args else kwargs["pixel_values"])),
        with_kwargs=True,
    )
    return runs


@pytest.fixture
def text_runs(model: LlavaForConditionalGeneration) -> list[int]:
    """Grows by one each time the model's language model runs."""
    runs: list[int] = []
    model.model.language_model.register_forward_pre_hook(lambda module, args: runs.append(1))
    return runs
