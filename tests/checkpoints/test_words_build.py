"""checkpoints/llava-pocket/build/words.py: its class token is CLIP's, and what it writes is read beside the base."""

import argparse
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
import words
from parallel import Worker
from safetensors.torch import load_file
from transformers import CLIPModel

from safety_modules.backbones import find_backbone
from safety_modules.backbones.bases import load_whole
from safety_modules.backbones.clip import Clip
from safety_modules.paths import checkpoint_dir
from safety_modules.pocket.compose import Composer


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two steps on a few pictures, in this process, put into a copy of the base."""
    place = tmp_path_factory.mktemp("words")
    base = place / "base"
    shutil.copytree(checkpoint_dir(), base, ignore=shutil.ignore_patterns("build", "words"))
    args = argparse.Namespace(
        base=str(base), out=str(place / "out"), steps=2, pool=words.BATCH, processes=1, seed=0, styles="seen",
        lr=1e-3, place=True, port=29577,
    )  # fmt: skip
    (place / "out").mkdir()
    with torch.random.fork_rng(devices=[]):
        try:
            words.train(Worker(0, args), args)
        finally:
            torch.distributed.destroy_process_group()
    return base


def test_scenes_come_back_from_their_file_as_they_were(tmp_path):
    kept = words.scenes_of(30, 3, "train", tmp_path / "scenes.json")
    composer = Composer("train", "train", np.random.default_rng(3), changed=0.3)
    drawn = [words.scene_for_tower(composer, 0.15) for _ in range(30)]
    assert [asdict(scene) for scene in kept] == [asdict(scene) for scene in drawn]
    assert kept == drawn == words.scenes_of(30, 3, "train", tmp_path / "scenes.json")


@torch.no_grad()
def test_the_class_token_without_the_patches_is_clips_own(built):
    model, processor = load_whole(built)
    clip = Clip(built / "words", find_backbone(model, processor)).model
    pixels = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    states = words.hidden(clip, pixels)
    batch = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - words.MEAN) / words.STD
    expected = clip.visual_projection(clip.vision_model(pixel_values=batch).pooler_output)
    torch.testing.assert_close(words.class_token(clip, states), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_base_answers_as_before_and_only_its_unused_layer_changed(built):
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint_dir(), built))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("encoder.layers.4." in name or "post_layernorm" in name for name in changed)
    old, new = (find_backbone(*load_whole(folder)) for folder in (checkpoint_dir(), built))
    assert old.fingerprint() == new.fingerprint() and old.tower_digest() != new.tower_digest()


def test_the_folder_is_a_stock_clips_and_small(built):
    folder = built / "words"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["CLIPModel"] and len(config["vision_tower_digest"]) == 64
    _, found = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert found["missing_keys"] and all(str(name).startswith("vision_model.") for name in found["missing_keys"])
    assert not found["unexpected_keys"]


def test_a_sentence_that_is_true_of_another_picture_too_is_no_wrong_answer_to_it():
    images = texts = torch.eye(2)
    scale = torch.zeros(())
    shown = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # a dog; a dog and a cat
    named = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # "a dog", "a cat"
    loss = words.loss_of(images, texts, scale, shown, named)
    # "a dog" is left out of what the second picture is told apart from, "a cat" not of the first's.
    first = -torch.log_softmax(torch.tensor([1.0, 0.0]), 0)[0]
    assert float(loss) == pytest.approx(float(((first + 0) / 2 + (0 + first) / 2) / 2), abs=1e-6)
