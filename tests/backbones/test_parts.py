"""What a defence needs of a base, whichever code base it is of: its parts, gradients, layers, range of pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from safety_modules.backbones import Backbone, find_backbone, images_of_rows
from safety_modules.errors import ConfigError

pytestmark = pytest.mark.matrix


@pytest.fixture(params=["transformers", "llava package"])
def backbone(request, model, processor, tmp_path) -> Backbone:
    if request.param == "transformers":
        return find_backbone(model, processor)
    pytest.importorskip("llava")
    from llava_layout import to_package

    return find_backbone(to_package(model, processor, tmp_path), processor.tokenizer)


@pytest.fixture
def pixels(backbone, make_image) -> torch.Tensor:
    return backbone.pixel_values([make_image(1), make_image(2)])


def test_the_parts_are_the_models_own(backbone):
    own = set(map(id, backbone.model.modules()))
    for part in (backbone.vision_tower, backbone.projector, backbone.blocks):
        assert id(part) in own
    assert isinstance(backbone.blocks, nn.ModuleList) and len(backbone.blocks) == backbone.sizes.num_layers
    assert all(block in list(backbone.language_model.modules()) for block in backbone.blocks)
    tower = {id(parameter) for parameter in backbone.vision_tower.parameters()}
    assert not any(id(parameter) in tower for parameter in backbone.language_model.parameters())


def test_gradients_reach_pixels_tower_and_projector_when_asked(backbone, pixels):
    pixels = pixels.requires_grad_()
    backbone.vision_tower.requires_grad_(True)
    features = backbone.encode_images(pixels)
    features.projected[0].square().sum().backward()
    used = next(backbone.vision_tower.parameters())
    weight = next(backbone.projector.parameters())
    for tensor in (pixels, used, weight):
        assert tensor.grad is not None and bool(tensor.grad.isfinite().all()) and bool(tensor.grad.any())
    assert not pixels.grad[1].any()  # the other image's
    vision = features.vision.detach().requires_grad_()
    backbone.project(vision)[1].sum().backward()
    assert vision.grad[1].any() and not vision.grad[0].any()


def test_features_are_the_same_with_and_without_gradients(backbone, pixels):
    asked = backbone.encode_images(pixels)
    with torch.no_grad():
        plain = backbone.encode_images(pixels)
        again = backbone.project(plain.vision)
    assert asked.projected[0].requires_grad
    assert not plain.vision.requires_grad and not any(one.requires_grad for one in (*plain.projected, *again))
    assert torch.equal(asked.vision, plain.vision)
    for one, other, third in zip(asked.projected, plain.projected, again, strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)


def test_a_layer_of_the_tower_may_be_asked_for(backbone, pixels):
    with torch.no_grad():
        own, *layers = (backbone.encode_images(pixels, layer) for layer in (None, 0, 1, 2))
        backwards = [backbone.encode_images(pixels, layer).vision for layer in (-3, -2, -1)]
    assert torch.equal(own.vision, layers[1].vision)  # the base's own is -2, of two layers
    for one, other in zip(layers, backwards, strict=True):
        assert torch.equal(one.vision, other) and one.vision.shape == own.vision.shape
        assert torch.equal(one.projected[0], backbone.project(one.vision)[0])
    assert not torch.allclose(layers[0].vision, own.vision) and not torch.allclose(layers[2].vision, own.vision)
    with torch.no_grad():
        assert torch.equal(backbone.encode_images(pixels).vision, own.vision)


@pytest.mark.parametrize("layer", [3, -4, 1.0, True, [1]])
def test_a_layer_that_the_tower_has_not_is_refused(backbone, pixels, layer):
    with pytest.raises(ConfigError, match=r"expected -3 to -1 or 0 \(.*\) to 2, got"):
        backbone.encode_images(pixels, layer)


def test_the_range_of_pixels_is_from_black_to_white(backbone):
    low, high = backbone.pixel_range()
    black, white = (backbone.pixel_values([Image.new("RGB", (40, 28), color)])[0] for color in ("black", "white"))
    for bound, pixels in ((low, black), (high, white)):
        assert bound.shape == (3,)
        torch.testing.assert_close(bound[:, None, None].expand_as(pixels), pixels, rtol=0, atol=1e-5)
    assert bool((low < high).all())


@pytest.mark.parametrize("setting", ["do_rescale", "do_normalize"])
def test_the_range_of_pixels_follows_the_processors_settings(model, processor, monkeypatch, setting):
    monkeypatch.setattr(processor.image_processor, setting, False)
    backbone = find_backbone(model, processor)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8))
    low, high = (bound[:, None, None] for bound in backbone.pixel_range())
    pixels = backbone.pixel_values([picture])[0]
    assert bool((pixels >= low - 1e-5).all() and (pixels <= high + 1e-5).all())
    assert float(((pixels.amax() - low) / (high - low)).amax()) > 0.9


def test_every_image_takes_as_many_tokens_as_it_has_features(backbone, pixels):
    with torch.no_grad():
        assert backbone.patch_counts(pixels) == [len(one) for one in backbone.encode_images(pixels).projected]
    assert backbone.prompt_ids("what is this?", 2).count(backbone.image_token_id) == sum(backbone.patch_counts(pixels))


def test_images_are_shared_out_to_rows():
    assert images_of_rows([7, 0, 5], [3, 4, 5]) == [[3, 4], [], [5]]
    assert images_of_rows([0, 0], []) == [[], []]
    for tokens, patches in (([7, 5], [3, 4]), ([7], [3, 4, 5]), ([6], [3, 4]), ([3], [])):
        assert images_of_rows(tokens, patches) is None


@pytest.mark.parametrize("how", ["generate", "classify"])
def test_nothing_carries_a_graph_in_a_guarded_call(guarded, model, ask, make_image, how):
    seen = []
    model.requires_grad_(True)
    for part in (guarded.backbone.vision_tower, guarded.backbone.projector, *guarded.backbone.blocks):
        part.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.enable_grad():
        if how == "generate":
            model.generate(**ask(("what is this?", [1]), ("and this?", [3])), max_new_tokens=2, do_sample=False)
        else:
            guarded.classify([make_image(1)], ["what is this?"])
    tensors = [one for output in seen for one in (output if isinstance(output, tuple) else [output])]
    tensors = [getattr(one, "last_hidden_state", one) for one in tensors]
    assert len(tensors) >= 2 and not any(one.requires_grad for one in tensors)
