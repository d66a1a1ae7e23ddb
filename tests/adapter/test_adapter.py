"""An adapter comes back as it was saved, and is written whole or not at all."""

import math
import pickle

import pytest
import torch

from adapters import (
    CONFIG,
    FINGERPRINT,
    PROCESSOR,
    SIZES,
    THRESHOLDS,
    as_version,
    edit_config,
    make_guard,
    make_parts,
    only,
    problems_of,
    save,
)
from safety_modules.adapter import read_adapter
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import AdapterError, SafetyModulesError
from safety_modules.policy import Policy
from safety_modules.policy.scores import LIMIT
from safety_modules.taxonomy import DEFAULT_TAXONOMY


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "adapter")


def test_float32_round_trip_is_exact(tmp_path):
    modules, lora = make_parts()
    (adapter,) = read_adapter(save(tmp_path / "a", dtype="float32")).parts
    for name, tensor in modules.state_dict().items():
        assert torch.equal(adapter.tensors[name], tensor), name
    for name, tensor in lora.items():
        assert torch.equal(adapter.lora_tensors[name], tensor), name
    assert set(adapter.tensors) == set(modules.state_dict()) and set(adapter.lora_tensors) == set(lora)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rounds_each_value_once(tmp_path, dtype):
    modules, lora = make_parts()
    (adapter,) = read_adapter(save(tmp_path / "a", dtype=dtype)).parts
    for name, tensor in {**modules.state_dict(), **lora}.items():
        stored = {**adapter.tensors, **adapter.lora_tensors}[name]
        assert torch.equal(stored, tensor.to(getattr(torch, dtype))), name


def test_saving_what_was_loaded_writes_the_same_bytes(tmp_path, folder):
    adapter = read_adapter(folder)
    (part,) = adapter.parts
    modules = SafetyModules(adapter.guard.design, adapter.config.base.sizes)
    modules.load_state_dict(part.tensors)
    again = save(tmp_path / "again", modules=modules, lora_tensors=part.lora_tensors)
    for name in ("safety.safetensors", "lora/adapter_model.safetensors", "adapter_config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_default_dtype_keeps_the_verdicts(folder):
    modules, _ = make_parts()
    loaded = SafetyModules(CONFIG, SIZES)
    loaded.load_state_dict(read_adapter(folder).parts[0].tensors)
    vision, question = torch.randn(64, 4, 16), torch.randn(64, 5, 32)
    policy, worst = Policy.default(), 0.0
    with torch.no_grad():
        outputs = [m(vision, question) for m in (modules, loaded)]
    for i in range(64):
        before, after = (
            policy.decide(o.type_logits[i].softmax(-1), o.level_logits[i].softmax(-1), DEFAULT_TAXONOMY)
            for o in outputs
        )
        worst = max(worst, *(abs(p - after.probabilities[n]) for n, p in before.probabilities.items()))
        assert (after.flagged, after.type, after.level) == (before.flagged, before.type, before.level)
    assert worst < 1e-3


def test_the_config_comes_back_and_can_be_read_by_people(folder):
    adapter = read_adapter(folder, fingerprint=FINGERPRINT, sizes=SIZES, processor=PROCESSOR)
    assert adapter.guard.design == CONFIG
    assert adapter.config.base.sizes == SIZES
    assert adapter.guard.thresholds == THRESHOLDS
    text = (folder / "adapter_config.json").read_text()
    assert text.startswith('{\n  "format": "safety-modules-adapter",\n  "format_version": 6,\n')


def test_an_adapter_without_lora_has_no_lora_folder(tmp_path):
    folder = save(tmp_path / "a", config=SafetyConfig(width=16, lora=None))
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "safety.safetensors"]
    assert read_adapter(folder).parts[0].lora_tensors == {}


def test_an_adapter_without_language_model_tokens_survives(tmp_path):
    config = SafetyConfig(width=16, num_lm_tokens=0, lora=None)
    assert read_adapter(save(tmp_path / "a", config=config)).parts[0].tensors["lm_tokens.weight"].shape == (0, 32)


def test_the_paper_preset_survives(tmp_path):
    config = SafetyConfig(**{**SafetyConfig.preset("paper").model_dump(), "lora": None})
    assert read_adapter(save(tmp_path / "a", config=config)).guard.design == config


def other_guard(config=CONFIG):
    return make_guard(*make_parts(config, seed=1))


def test_load_into_fills_modules_and_lora(folder):
    adapter, guard = read_adapter(folder), other_guard()
    adapter.load_into([guard])
    (part,) = adapter.parts
    for name, tensor in guard.modules.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, part.tensors[name].float())
    assert guard.lora.tensors == part.lora_tensors


def test_load_into_another_design_is_refused(folder):
    other = CONFIG.model_copy(update={"width": 32})
    with pytest.raises(AdapterError, match="other modules: expected the adapter's names and shapes"):
        read_adapter(folder).load_into([other_guard(other)])


@pytest.mark.parametrize("lora", [None, CONFIG.lora.model_copy(update={"r": 3})])
def test_a_lora_that_does_not_fit_is_refused_before_anything_is_copied(folder, lora):
    guard = other_guard(CONFIG.model_copy(update={"lora": lora}))
    before = {name: tensor.clone() for name, tensor in guard.modules.state_dict().items()}
    with pytest.raises(AdapterError, match="other LoRA"):
        read_adapter(folder).load_into([guard])
    assert all(torch.equal(before[n], t) for n, t in guard.modules.state_dict().items())


def test_writing_leaves_nothing_beside_the_adapter(tmp_path, folder):
    save(folder, seed=1)
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_newer_adapter_replaces_an_older_one_and_keeps_the_card(tmp_path, folder):
    (folder / "README.md").write_text("the card")
    (folder / "plots").mkdir()
    (folder / "plots" / "roc.txt").write_text("curve")
    save(folder, config=SafetyConfig(width=16, lora=None))
    assert read_adapter(folder).guard.design.lora is None
    assert not (folder / "lora").exists()
    assert (folder / "README.md").read_text() == "the card"
    assert (folder / "plots" / "roc.txt").read_text() == "curve"


def test_a_folder_with_only_a_card_may_become_an_adapter(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "README.md").write_text("the card")
    read_adapter(save(tmp_path / "a"))


@pytest.mark.parametrize("kind", ["file", "other folder", "peft adapter", "symlink"])
def test_writing_over_something_else_is_refused(tmp_path, kind):
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("thesis")
    elif kind == "symlink":
        target.symlink_to(tmp_path)
    else:
        target.mkdir()
        name = "thesis.tex" if kind == "other folder" else "adapter_config.json"
        (target / name).write_text('{"peft_type": "LORA"}')
    with pytest.raises(AdapterError, match="is not a safety adapter"):
        save(target)
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_a_failed_write_leaves_the_old_adapter_and_nothing_else(tmp_path, folder):
    before = (folder / "safety.safetensors").read_bytes()
    modules, _ = make_parts(seed=1)
    with torch.no_grad():
        modules.head.concepts[0, 0] = float("nan")
    with pytest.raises(AdapterError, match=r"head\.concepts holds NaN or infinity"):
        save(folder, modules=modules)
    assert (folder / "safety.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "int8"}, "expected one of float16, bfloat16, float32, got 'int8'"),
        ({"thresholds": {"weapons": 0.5}}, "thresholds do not match the taxonomy"),
        ({"thresholds": {**THRESHOLDS, "illegal": 31.0}}, r"thresholds\.illegal: .* less than or equal to 30"),
        ({"lora_tensors": None}, "files do not match the design"),
        ({"metadata": {"scores": {1, 2}}}, "must be JSON"),
        ({"metadata": {"loss": float("nan")}}, "must be JSON"),
        ({"lora_tensors": {"layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 32)}}, "missing tensor"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, changes, words):
    with pytest.raises(AdapterError, match=words):
        save(tmp_path / "a", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_value_too_large_for_float16_is_refused_not_made_infinite(tmp_path):
    modules, _ = make_parts()
    with torch.no_grad():
        modules.head.type_bias[0] = 1e6
    with pytest.raises(AdapterError, match=r"head\.type_bias holds NaN or infinity"):
        save(tmp_path / "a", modules=modules)
    read_adapter(save(tmp_path / "a", modules=modules, dtype="bfloat16"))


def test_the_error_is_one_of_ours_lists_its_problems_and_survives_pickling(folder):
    (folder / "safety.safetensors").unlink()
    with pytest.raises(SafetyModulesError) as caught:
        read_adapter(folder)
    assert str(caught.value) == f"adapter {folder} refused, 1 problem:\n  - missing file safety.safetensors."
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems  # noqa: S301


def test_a_head_that_reads_is_kept_with_its_branches_and_needs_version_6(tmp_path):
    design = CONFIG.with_added(("weapons",)).model_copy(update={"query": "reading"})
    folder = save(tmp_path / "a", config=design, thresholds={})
    found = read_adapter(folder)
    assert found.guard.design == design and design.branch("weapons").query == "reading"
    assert {"head.reader.queries", "branches.0.head.reader.queries"} < found.parts[0].tensors.keys()
    assert CONFIG.branch("weapons").query == SafetyConfig.preset("paper").branch("weapons").query == "concept"
    edit_config(folder, lambda record: record.update(format_version=5))
    assert "format_version 5 does not know the query 'reading'" in only(problems_of(folder))


def test_a_config_of_version_4_without_a_query_means_the_head_of_then(tmp_path):
    folder = as_version(save(tmp_path / "a"), 4)
    edit_config(folder, lambda record: record["safety"].pop("query"))
    assert read_adapter(folder).guard.design == CONFIG


def test_an_adapter_of_version_2_has_one_set(tmp_path):
    folder = save(tmp_path / "a", config=CONFIG.model_copy(update={"ensemble": 1}))
    new = read_adapter(folder)
    as_version(folder, 2)
    old = read_adapter(folder)
    assert old.guard.design == new.guard.design and old.config.format_version == 2
    assert old.parts[0].tensors.keys() == new.parts[0].tensors.keys()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_thresholds_before_version_4_were_probabilities_and_mean_the_same_as_log_odds(tmp_path, version):
    folder = save(tmp_path / "a", config=CONFIG.model_copy(update={"ensemble": 1}))
    probabilities = [0.0, 0.5, 0.9, 0.975, 1 - 1e-9, 1.0]

    def older(record):
        record.update(thresholds=dict(zip(THRESHOLDS, probabilities, strict=True)))
        if version > 1:
            record["rules"] = {"illegal": {"threshold": 0.9}}

    edit_config(as_version(folder, version), older)
    config = read_adapter(folder).guard
    sure = math.log(2**24 - 1)  # what a float32 risk of 1 came down to
    expected = [-LIMIT, 0.0, math.log(9), math.log(39), sure, sure]
    assert [*config.thresholds.values()] == pytest.approx(expected)
    if version > 1:
        assert config.rules["illegal"].threshold == pytest.approx(math.log(9))
    edit_config(folder, lambda record: record["thresholds"].update(illegal=1.01))
    with pytest.raises(AdapterError, match=r"threshold of 'illegal' is not a probability: 1.01"):
        read_adapter(folder)
