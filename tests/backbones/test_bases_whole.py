"""Every base in the project is loaded whole: a missing weight is refused, never made up."""

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import safety_modules
from safety_modules import pocket
from safety_modules.backbones.bases import load_whole
from safety_modules.errors import ConfigError, SafetyModulesError
from safety_modules.evaluation.judges.local import TextModel

ROOT = Path(__file__).parents[2]
MISSING = "multi_modal_projector.linear_1.weight"


@pytest.fixture
def incomplete(saved_base, tmp_path):
    """A base without one weight, as an interrupted download leaves it."""
    folder = tmp_path / "base"
    folder.mkdir()
    for path in saved_base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith(MISSING))]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_missing_weight_is_refused_wherever_a_base_is_loaded(incomplete, monkeypatch):
    words = rf"base not whole: expected every tensor of .*, got none or another shape for .*{MISSING}"
    with pytest.raises(ConfigError, match=words):
        load_whole(incomplete)
    with pytest.raises(ConfigError, match=words):
        load_whole(str(incomplete))
    monkeypatch.setattr(pocket, "checkpoint_dir", lambda: incomplete)
    with pytest.raises(ConfigError, match=words):
        pocket.load()
    from safety_modules.backbones.tower import TowerBackbone

    with pytest.raises(SafetyModulesError, match=MISSING):
        TowerBackbone(incomplete)


def test_nothing_loads_a_base_in_another_way():
    """`bases.load_whole`, and `load_weights` below it, are the only ones that ask transformers for a base's weights."""
    files = [*Path(safety_modules.__file__).parent.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    found = [
        (path.name, line.strip())
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(Llava\w*|ImageTextToText|Vision2Seq)\.from_pretrained", line)
    ]
    assert [one for one in found if not one[1].startswith(("processor = LlavaProcessor", "#"))] == []


def test_a_judge_with_a_missing_weight_is_refused(tmp_path, processor):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    assert TextModel(tmp_path).model is not None
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"judge not whole: .* model\.norm\.weight"):
        assert TextModel(tmp_path).model
