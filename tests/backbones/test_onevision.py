"""What is LLaVA-OneVision's own: pictures that are shrunk, several in one prompt."""

import pytest
import tiled_bases
import torch
from guard_cases import NEW, attach_as_trained

from safety_modules.backbones import find_backbone
from safety_modules.backbones.tiles import lengths
from safety_modules.config import SafetyConfig
from safety_modules.errors import GuardError
from safety_modules.policy.scores import LIMIT

pytestmark = pytest.mark.matrix


def made(ratio):
    processor = tiled_bases.onevision_processor(ratio)
    return tiled_bases.onevision_model(processor.tokenizer, ratio), processor


def asked(processor, *rows):
    """Inputs for rows of a question and its pictures, a list for each prompt."""
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}] * len(seeds) + [{"type": "text", "text": text}]}],
            add_generation_prompt=True,
        )
        for text, seeds in rows
    ]
    images = [[tiled_bases.picture(seed) for seed in seeds] for _, seeds in rows if seeds]
    return dict(processor(images=images, text=texts, return_tensors="pt", padding=True))


@pytest.mark.parametrize("ratio", ["anyres_max_1", "anyres_max_2", "anyres_max_9"])
def test_shrunk_pictures_have_the_features_of_their_tokens(ratio):
    model, processor = made(ratio)
    backbone = find_backbone(model, processor)
    for width, height in [*tiled_bases.SIZES, (56, 50), (40, 56), (27, 56)]:
        picture = tiled_bases.picture(1).resize((width, height))
        images = backbone.pixel_values([picture])
        with torch.no_grad():
            found = backbone.encode_images(images)
        assert lengths(found.vision) == [len(found.projected[0])] == backbone.patch_counts(images)
        assert len(found.projected[0]) <= backbone.sizes.num_patches
        assert [len(one) for one in backbone.project(found.vision)] == backbone.patch_counts(images)


def test_several_pictures_in_a_prompt_are_one_padded_tile_each():
    model, processor = made("anyres_max_9")
    safety = attach_as_trained(model, processor, config=SafetyConfig(lora=None))
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, -LIMIT)
    inputs = asked(processor, ("one", [1]), ("no picture", []), ("two", [2, 3]))
    images = safety.backbone.images_given(inputs)
    assert images.cut.tolist() == [True, False, False]
    patches = (tiled_bases.IMAGE_SIZE // tiled_bases.PATCH_SIZE) ** 2
    assert safety.backbone.patch_counts(images)[1:] == [patches + 1] * 2
    found = safety.generate(**inputs, **NEW)
    assert [[verdict.fit for verdict in row] for row in found.image_verdicts] == [["stretch"], [], ["pad", "pad"]]
    # A row alone is the row in the batch.
    alone = safety.generate(**asked(processor, ("two", [2, 3])), **NEW)
    new = [one.sequences[-1, -NEW["max_new_tokens"] :].tolist() for one in (found, alone)]
    assert new[0][: len(new[1])] == new[1] or new[0] == new[1]


def test_sub_batches_are_written_as_the_processor_writes_them():
    model, processor = made("anyres_max_9")
    backbone = find_backbone(model, processor)
    images = backbone.images_given(asked(processor, ("one", [1]), ("two", [2, 3])))
    assert backbone.images_taken(images)["batch_num_images"].tolist() == [1, 2]
    assert backbone.images_taken(images[1:])["batch_num_images"].tolist() == [2]
    with pytest.raises(GuardError, match="expected batch_num_images by rows"):
        backbone.images_taken(images[:2])
    with pytest.raises(GuardError, match="expected batch_num_images that sum to 3"):
        backbone.images_given(
            {**asked(processor, ("one", [1]), ("two", [2, 3])), "batch_num_images": torch.tensor([1])}
        )
