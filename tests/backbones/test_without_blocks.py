"""A base that judges and embeds, with its blocks left empty: what it has is the whole base's, bit for bit."""

from pathlib import Path

import pytest
import torch
from transformers import LlavaNextConfig

from safety_modules import attach_safety, pocket
from safety_modules.backbones.generation import end_ids
from safety_modules.backbones.tower import without_blocks
from safety_modules.errors import AttachError
from safety_modules.paths import checkpoint_dir


@pytest.fixture(scope="module")
def front():
    return without_blocks(Path(checkpoint_dir()))


def test_only_blocks_and_output_layer_are_empty(front):
    model, _ = front
    empty = {name for name, one in model.named_parameters() if one.is_meta}
    assert empty and all(name.startswith(("model.language_model.layers.", "lm_head.")) for name in empty)


def test_it_judges_and_embeds_as_the_whole_base_does(front):
    whole, own = (attach_safety(*base, adapter=pocket.adapter_dir()) for base in (pocket.load(), front))
    records = list(pocket.make("attack", 2, split="validation"))
    images, questions = [one.image for one in records], [one.question for one in records]
    assert own.classify(images, questions) == whole.classify(images, questions)
    pixels = own.backbone.pixel_values(images)
    for got, expected in zip(
        own.backbone.encode_images(pixels).projected, whole.backbone.encode_images(pixels).projected, strict=True
    ):
        assert torch.equal(got, expected)
    assert end_ids(own.backbone.model, {}) == end_ids(whole.backbone.model, {})
    own.detach()


def test_it_takes_a_dtype():
    model, _ = without_blocks(Path(checkpoint_dir()), torch.bfloat16)
    assert {one.dtype for one in model.parameters() if not one.is_meta} == {torch.bfloat16}


def test_a_base_with_tiles_is_refused(tmp_path):
    LlavaNextConfig().save_pretrained(tmp_path)
    with pytest.raises(AttachError, match="LlavaNextForConditionalGeneration"):
        without_blocks(tmp_path)
