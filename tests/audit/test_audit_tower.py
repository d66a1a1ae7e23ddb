"""The vision tower without its language model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from safety_modules import SafetyConfig
from safety_modules.backbones import find_backbone
from safety_modules.backbones import tower as tower_module
from safety_modules.backbones.tower import TowerBackbone, canonical
from safety_modules.config import BaseSizes
from safety_modules.defences.guard import embed_questions, question_ids
from safety_modules.errors import AttachError, ConfigError

pytestmark = pytest.mark.matrix
Layout = Callable[[str], str]


def old_name(name: str) -> str:
    """As transformers before 4.52 wrote it, the `vision_model` level included."""
    name = canonical(name)
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def new_name(name: str) -> str:
    """As transformers 4.52 and later name it."""
    name = canonical(name)
    return (
        name
        if name.startswith("lm_head")
        else f"model.{name.replace('vision_tower.', 'vision_tower.vision_model.', 1)}"
    )


def rewritten(base: Path, folder: Path, name: Layout, shards: int = 1) -> Path:
    """The checkpoint with other names, in one file or in several with an index."""
    folder.mkdir()
    tensors = {name(key): value for key, value in safetensors.torch.load_file(base / "model.safetensors").items()}
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    if shards == 1:
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
        return folder
    files = {key: f"model-{place % shards + 1:05}-of-{shards:05}.safetensors" for place, key in enumerate(tensors)}
    for file in set(files.values()):
        safetensors.torch.save_file({key: tensors[key] for key in files if files[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


@pytest.fixture
def full(tiny_base: LlavaForConditionalGeneration, processor: LlavaProcessor) -> Any:
    return find_backbone(tiny_base, processor)


@pytest.mark.parametrize("name", [old_name, new_name])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_tower_alone_gives_the_features_of_the_whole_model(
    saved_base: Path, tmp_path: Path, full: Any, make_image: Callable[[int], Image.Image], name: Layout, shards: int
) -> None:
    tower = TowerBackbone(rewritten(saved_base, tmp_path / "base", name, shards))
    pixels = full.pixel_values([make_image(seed) for seed in range(3)])
    assert torch.equal(tower.encode_images(pixels).vision, full.encode_images(pixels).vision)
    for layer in (0, -2):  # counted as in the whole tower, and the last is not there
        assert torch.equal(tower.encode_images(pixels, layer).vision, full.encode_images(pixels, layer).vision)
    with pytest.raises(ConfigError, match=r"expected -3 to -2 or 0 .* to 1, got -1"):
        tower.encode_images(pixels, -1)
    prompts = [full.prompt_ids("what is shown?"), full.prompt_ids("how?")]
    ours, theirs = (
        embed_questions(backbone, [question_ids(backbone, SafetyConfig(), prompt) for prompt in prompts])
        for backbone in (tower, full)
    )
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_a_tower_alone_is_known_as_the_same_base(saved_base: Path, full: Any) -> None:
    tower = TowerBackbone(saved_base)
    assert tower.fingerprint() == full.fingerprint() | {"language_model": None}
    assert tower.fingerprint(version=1) == full.fingerprint(version=1)
    assert isinstance(tower.sizes, BaseSizes) and tower.sizes == full.sizes
    assert tower.pixel_settings() == full.pixel_settings()


def test_nothing_but_the_tower_and_what_names_the_base_is_read(saved_base: Path, monkeypatch: Any) -> None:
    read: dict[str, int] = {}

    class Watched:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Watched":
            self.opened = self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def keys(self) -> Any:
            return self.opened.keys()

        def get_tensor(self, name: str) -> torch.Tensor:
            tensor = self.opened.get_tensor(name)
            read[canonical(name)] = tensor.nbytes
            return tensor

    safe_open = tower_module.safe_open
    monkeypatch.setattr(tower_module, "safe_open", lambda *args: Watched(safe_open(*args)))
    tower = TowerBackbone(saved_base)
    language = {name for name in read if not name.startswith("vision_tower.")}
    assert language == {
        "language_model.norm.weight",
        "language_model.embed_tokens.weight",
        *(f"multi_modal_projector.linear_{number}.{part}" for number in (1, 2) for part in ("weight", "bias")),
    }
    layers = {name.split(".")[3] for name in read if ".layers." in name}
    assert layers == {"0"}, "the second of two layers comes after the one the head sees"
    assert tower.bytes_read == sum(read.values())
    tower.embed_text(torch.tensor([[1, 2]]))
    assert tower.bytes_read == sum(read.values()), "the table is read once"


def test_a_checkpoint_without_the_tower_is_refused(saved_base: Path, tmp_path: Path) -> None:
    broken = rewritten(saved_base, tmp_path / "base", lambda name: name.replace("patch_embedding", "patches"))
    with pytest.raises(AttachError, match=r"none named vision_tower\.embeddings\.patch_embedding"):
        TowerBackbone(broken)


def test_pickled_weights_are_not_opened(saved_base: Path, tmp_path: Path) -> None:
    folder = rewritten(saved_base, tmp_path / "base", str)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(AttachError, match="got neither"):
        TowerBackbone(folder)
    with pytest.raises(AttachError, match=r"config\.json"):
        TowerBackbone(tmp_path)


def test_a_cut_file_is_refused(saved_base: Path, tmp_path: Path) -> None:
    folder = rewritten(saved_base, tmp_path / "base", str)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(AttachError, match="Get it again"):
        TowerBackbone(folder)
