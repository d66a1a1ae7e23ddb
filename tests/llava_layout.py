"""A transformers LLaVA in the layout of the original llava package: the same weights under other names.

From transformers 5.24 on the package's own `generate` fails (its forward has no `cache`): a reference without safety is
asked `in_the_packages_words`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM


@contextmanager
def in_the_packages_words() -> Iterator[None]:
    """Inside this block the package's forward takes `cache` by the name it knows."""
    own = LlavaLlamaForCausalLM.forward

    @wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "cache" in kwargs:
            kwargs["past_key_values"] = kwargs.pop("cache")
        return own(self, *args, **kwargs)

    LlavaLlamaForCausalLM.forward = forward
    try:
        yield
    finally:
        LlavaLlamaForCausalLM.forward = own


def to_package(model: Any, processor: Any, folder: Path) -> LlavaLlamaForCausalLM:
    """The model as the package has it. Its vision tower is a checkpoint of its own, written to the folder."""
    model.model.vision_tower.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    text = {key: value for key, value in model.config.text_config.to_dict().items() if key != "model_type"}
    config = LlavaConfig(
        **text,
        mm_vision_tower=str(folder),
        mm_hidden_size=model.config.vision_config.hidden_size,
        mm_projector_type="mlp2x_gelu",
        mm_vision_select_layer=model.config.vision_feature_layer,
        mm_vision_select_feature="patch",
        tokenizer_padding_side="left",
    )
    package = LlavaLlamaForCausalLM(config).eval()
    package.get_vision_tower().load_model()
    state = {f"model.{name}": tensor for name, tensor in model.model.language_model.state_dict().items()}
    state["lm_head.weight"] = model.lm_head.weight
    for number, linear in ((0, "linear_1"), (2, "linear_2")):
        for kind, tensor in getattr(model.model.multi_modal_projector, linear).state_dict().items():
            state[f"model.mm_projector.{number}.{kind}"] = tensor
    missing, unexpected = package.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("model.vision_tower.") for name in missing)
    package.generation_config = model.generation_config
    return package.to(model.device)


def to_package_inputs(inputs: dict[str, Any], image_token_id: int, num_patches: int) -> dict[str, Any]:
    """The same prompts as the package wants them: one -200 per image, a stand-in image for rows without any."""
    rows, images, pictures = [], [], iter(inputs.get("pixel_values", []))
    for ids, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True):
        row: list[int] = []
        at = mask.index(1)
        while at < len(ids):
            image = ids[at] == image_token_id
            row.append(IMAGE_TOKEN_INDEX if image else ids[at])
            images += [next(pictures)] if image else []
            at += num_patches if image else 1
        if "pixel_values" in inputs and IMAGE_TOKEN_INDEX not in row:
            images.append(torch.zeros_like(inputs["pixel_values"][0]))
        rows.append(row)
    width = max(map(len, rows))
    like = inputs["input_ids"]
    return {
        "inputs": like.new_tensor([[0] * (width - len(row)) + row for row in rows]),
        "attention_mask": like.new_tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        "images": torch.stack(images) if images else None,
    }
