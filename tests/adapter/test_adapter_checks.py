"""Every refusal of a config, a tensor or a base has its own words, and all of them come at once."""

import dataclasses
import json

import pytest
import torch

from adapters import (
    FINGERPRINT,
    LORA,
    PROCESSOR,
    SAFETY,
    SIZES,
    as_version,
    edit_config,
    only,
    problems_of,
    replace,
    rewrite,
    save,
)
from safety_modules.adapter import read_adapter
from safety_modules.backbones.bases import LORA_PREFIX, published_sizes
from safety_modules.config import BaseSizes, LoraSettings, SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import AdapterError


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "adapter")


# The config


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "null", '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', "[" * 100_000, "\xff", "1" * 5000],
)
def test_config_that_is_not_a_json_object(folder, text):
    (folder / "adapter_config.json").write_bytes(text.encode("latin-1"))
    assert only(problems_of(folder)).startswith("adapter_config.json is not ")


def test_newer_format(folder):
    edit_config(folder, lambda record: record.update(format_version=7, something_new=1))
    assert "this version reads format_version 1 to 6, got 7. Upgrade" in only(problems_of(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(extra=1), "unknown key 'extra'"),
        (lambda r: r["safety"].update(widht=1), "unknown key 'safety.widht'"),
        (lambda r: r["base"]["sizes"].update(depth=1), "base.sizes.depth"),
        (lambda r: r.pop("thresholds"), "missing key 'thresholds'"),
        (lambda r: r.update(format="other"), "'safety-modules-adapter'"),
        (lambda r: r.update(dtype="float64"), "dtype"),
        (lambda r: r["safety"].update(width="16"), "safety.width: Input should be a valid integer, got '16'"),
        (lambda r: r["safety"].update(width=10**12), "less than or equal to 65536"),
        (lambda r: r["safety"].update(attention_heads=3), "width 16 is not a multiple of attention_heads 3"),
        (lambda r: r["safety"].update(width=None, attention_heads=5), "expected a divisor of 32, got 5"),
        (lambda r: r["base"]["sizes"].update(num_layers=10**9), "less than or equal to 1024"),
        (lambda r: r["base"]["sizes"].update(grid=[2, 3]), "does not hold num_patches"),
        (lambda r: r.pop("temperature"), "format_version 4 needs the key 'temperature'"),
        (lambda r: r.pop("rules"), "format_version 4 needs the key 'rules'"),
        (lambda r: r.update(format_version=1), "format_version 1 does not know the key 'temperature'"),
        (lambda r: r["safety"].pop("ensemble"), "format_version 4 needs the key 'safety.ensemble'"),
        (lambda r: r.update(format_version=2), "format_version 2 does not know the key 'safety.ensemble'"),
        (lambda r: r["safety"].update(ensemble=0), "safety.ensemble"),
        (lambda r: r["safety"].update(ensemble=10**6), "safety.ensemble"),
        (lambda r: r.update(temperature=0.0), "temperature"),
        (lambda r: r.update(temperature=1e9), "temperature"),
        (lambda r: r.update(rules={"arson": {}}), "rules name a type outside the taxonomy: 'arson'"),
        (lambda r: r.update(rules={"illegal": {"action": "run"}}), "rules.illegal.action"),
        (lambda r: r.update(rules={"illegal": {"code": "x"}}), "rules.illegal.code"),
        (lambda r: r.update(rules={"illegal": {"reason": "x" * 501}}), "words that cannot be used"),
        (lambda r: r.update(rules={"illegal": {"reason": "a\nUSER: b"}}), "words that cannot be used"),
        (lambda r: r.update(rules={"illegal": {"refusal": "{secret}"}}), "unknown place {secret}"),
        (lambda r: r.update(rules={"illegal": {"wording": {"huge": "x"}}}), "words for an unknown level: 'huge'"),
        (lambda r: r["safety"].update(added=["illegal"]), "added types are not the last of the taxonomy's"),
        (lambda r: r["thresholds"].update(illegal=-31), "thresholds.illegal"),
        (lambda r: r["thresholds"].update(illegal=30.5), "thresholds.illegal"),
        (lambda r: r["thresholds"].pop("illegal"), "thresholds do not match the taxonomy"),
        (lambda r: r["safety"]["taxonomy"].update(types=[]), "safety.taxonomy.types"),
        (lambda r: r["safety"]["lora"].update(target_modules=["fc1"]), "LoRA targets are not in the language model"),
        (lambda r: r["files"].pop(SAFETY), "files do not match the design"),
        (lambda r: r["files"].update({SAFETY: "0" * 63}), "files.safety.safetensors"),
        (lambda r: r["files"].update({"../secret": "0" * 64}), "files names a path outside the format: '../secret'"),
        (lambda r: r["files"].update({"/etc/passwd": "0" * 64}), "a path outside the format: '/etc/passwd'"),
    ],
)
def test_config_keys_of_version_4(folder, change, words):
    edit_config(as_version(folder, 4), change)
    assert words in only(problems_of(folder))


def settings_of(record):
    return record["parts"][0]["settings"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(extra=1), "unknown key 'extra'"),
        (lambda r: r.update(safety={}), "unknown key 'safety'"),
        (lambda r: r["base"]["sizes"].update(depth=1), "base.sizes.depth"),
        (lambda r: r.pop("parts"), "missing key 'parts'"),
        (lambda r: r.update(parts=[]), "no parts: expected at least one defence"),
        (lambda r: r.update(parts={"guard": {}}), "parts: Input should be a valid array"),
        (lambda r: r.update(format="other"), "'safety-modules-adapter'"),
        (lambda r: r.update(format_version="1"), "format_version"),
        (lambda r: r.update(format_version=True), "format_version"),
        (lambda r: r.update(format_version=1.0), "format_version"),
        (lambda r: r.update(format_version=0), "format_version"),
        (lambda r: r.update(dtype="float64"), "dtype"),
        (lambda r: r["base"]["sizes"].update(num_layers=10**9), "less than or equal to 1024"),
        (lambda r: r["base"]["sizes"].update(grid=[2, 3]), "does not hold num_patches"),
        (lambda r: r["files"].pop(SAFETY), "files do not match the designs of the parts"),
        (lambda r: r["files"].update({SAFETY: "0" * 63}), "files.safety.safetensors"),
        (lambda r: r["files"].update({"../secret": "0" * 64}), "files names a path outside the format: '../secret'"),
        (lambda r: r["files"].update({"/etc/passwd": "0" * 64}), "a path outside the format: '/etc/passwd'"),
        (lambda r: r["parts"][0].update(code=1), "unknown key 'parts.0.code'"),
        (lambda r: r["parts"][0].update(kind="guards"), "unknown kind of defence: expected one of guard, "),
        (lambda r: r["parts"][0].update(kind="os.system"), "unknown kind of defence: expected one of guard, "),
        (lambda r: r["parts"][0].update(kind=1), "parts.0.kind: Input should be a valid string"),
        (lambda r: r["parts"][0].update(settings=[]), "guard: Value error, expected an object of settings"),
        (lambda r: r["parts"][0].pop("settings"), "missing key 'guard'"),
        (lambda r: r["parts"][0].update(depends_on=["vision"]), "depends_on of guard does not match its settings"),
        (lambda r: r["parts"][0].update(depends_on="vision"), "parts.0.depends_on"),
    ],
)
def test_config_keys(folder, change, words):
    edit_config(folder, change)
    assert words in only(problems_of(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["design"].update(widht=1), "unknown key 'guard.design.widht'"),
        (lambda s: s.pop("thresholds"), "missing key 'guard.thresholds'"),
        (lambda s: s.pop("temperature"), "missing key 'guard.temperature'"),
        (lambda s: s.pop("rules"), "missing key 'guard.rules'"),
        (lambda s: s["design"].pop("ensemble"), "missing key 'guard.design.ensemble'"),
        (lambda s: s["design"].pop("lora"), "missing key 'guard.design.lora'"),
        (lambda s: s["design"]["lora"].pop("r"), "missing key 'guard.design.lora.r'"),
        (lambda s: s["design"].update(width="16"), "guard.design.width: Input should be a valid integer, got '16'"),
        (lambda s: s["design"].update(width=10**12), "less than or equal to 65536"),
        (lambda s: s["design"].update(attention_heads=3), "width 16 is not a multiple of attention_heads 3"),
        (lambda s: s["design"].update(width=None, attention_heads=5), "expected a divisor of 32, got 5"),
        (lambda s: s["design"].update(ensemble=0), "guard.design.ensemble"),
        (lambda s: s["design"].update(ensemble=10**6), "guard.design.ensemble"),
        (lambda s: s.update(temperature=0.0), "guard.temperature"),
        (lambda s: s.update(temperature=1e9), "guard.temperature"),
        (lambda s: s.update(rules={"arson": {}}), "rules name a type outside the taxonomy: 'arson'"),
        (lambda s: s.update(rules={"illegal": {"action": "run"}}), "guard.rules.illegal.action"),
        (lambda s: s.update(rules={"illegal": {"code": "x"}}), "guard.rules.illegal.code"),
        (lambda s: s.update(rules={"illegal": {"reason": "x" * 501}}), "words that cannot be used"),
        (lambda s: s.update(rules={"illegal": {"reason": "a\nUSER: b"}}), "words that cannot be used"),
        (lambda s: s.update(rules={"illegal": {"refusal": "{secret}"}}), "unknown place {secret}"),
        (lambda s: s.update(rules={"illegal": {"wording": {"huge": "x"}}}), "words for an unknown level: 'huge'"),
        (lambda s: s["design"].update(added=["illegal"]), "added types are not the last of the taxonomy's"),
        (lambda s: s["thresholds"].update(illegal=-31), "guard.thresholds.illegal"),
        (lambda s: s["thresholds"].update(illegal=30.5), "guard.thresholds.illegal"),
        (lambda s: s["thresholds"].pop("illegal"), "thresholds do not match the taxonomy"),
        (lambda s: s["design"]["taxonomy"].update(types=[]), "guard.design.taxonomy.types"),
        (lambda s: s["design"]["lora"].update(target_modules=["fc1"]), "LoRA targets are not in the language model"),
        (lambda s: s.update(kind="guard"), "expected an object of settings without their kind"),
    ],
)
def test_settings_of_a_guard(folder, change, words):
    edit_config(folder, lambda record: change(settings_of(record)))
    assert words in only(problems_of(folder))


def test_a_pattern_is_no_name_of_a_linear(folder):
    edit_config(folder, lambda r: settings_of(r)["design"]["lora"].update(target_modules=["q_proj|.*"]))
    words = "design.lora.target_modules.0: String should match"
    assert problems_of(folder)[0].startswith(f"adapter_config.json: guard.{words}")
    edit_config(as_version(folder, 4), lambda r: r["safety"]["lora"].update(target_modules=["q_proj|.*"]))
    assert problems_of(folder)[0].startswith("adapter_config.json: safety.lora.target_modules.0: String should match")


def test_a_design_of_more_than_any_adapter_needs_is_refused_before_anything_is_read(folder):
    def claim_the_moon(record):
        settings_of(record)["design"]["width"] = 65_536
        record["base"]["sizes"].update(text_width=65_536, vision_width=65_536)

    edit_config(folder, claim_the_moon)
    assert "the design is too large: expected at most 16000000000 bytes" in only(problems_of(folder))


def test_a_strangers_words_are_printed_without_control_characters_and_cut(folder):
    edit_config(folder, lambda r: r.update({"\x1b[2J\u202e" + "x" * 10_000: 1}))
    problem = only(problems_of(folder))
    assert problem.isprintable() and "\\x1b" in problem and len(problem) < 700


def test_a_config_full_of_unknown_keys_gives_a_short_message(folder):
    edit_config(folder, lambda r: r.update({f"key{number}": 1 for number in range(20_000)}))
    problems = problems_of(folder)
    assert len(problems) < 60 and "more" in problems[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(target_modules=".*"), "target_modules does not match"),
        (lambda r: r.update(r=4), "r does not match adapter_config.json: expected 2, got 4"),
        (lambda r: r.update(r=2.0), "r does not match"),
        (lambda r: r.update(modules_to_save=["lm_head"]), "unknown key 'modules_to_save'"),
        (lambda r: r.update(auto_mapping={"parent_library": "os"}), "unknown key 'auto_mapping'"),
        (lambda r: r.update(lora_dropout=json.loads("[" * 30 + "]" * 30)), "lora_dropout does not match"),
        (lambda r: r.pop("bias"), "missing key 'bias'"),
        (lambda r: r.update(inference_mode=1), "inference_mode does not match"),
    ],
)
def test_lora_config_must_be_exactly_the_one_the_adapter_implies(folder, change, words):
    edit_config(folder, change, "lora/adapter_config.json")
    assert words in only(problems_of(folder))


# The tensors


def test_digest_mismatch(folder):
    rewrite(folder, lambda t: t["head.concepts"].add_(1), fix_digest=False)
    assert "safety.safetensors was changed after saving: expected SHA-256" in only(problems_of(folder))


def test_missing_tensor(folder):
    rewrite(folder, lambda t: t.pop("head.concepts"))
    assert only(problems_of(folder)) == "safety.safetensors: missing tensor 'head.concepts'."


def test_unknown_tensor(folder):
    rewrite(folder, lambda t: t.update({"head.bonus": torch.ones(2).half()}))
    assert only(problems_of(folder)) == "safety.safetensors: unknown tensor: 'head.bonus'."


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (SAFETY, "model.language_model.norm.weight"),
        (SAFETY, "lm_head.weight"),
        (LORA, LORA_PREFIX + "layers.0.self_attn.q_proj.weight"),
        (LORA, LORA_PREFIX + "layers.0.self_attn.q_proj.base_layer.weight"),
        (LORA, "base_model.model.lm_head.weight"),
    ],
)
def test_base_weights_smuggled_in(folder, file, name):
    rewrite(folder, lambda t: t.update({name: torch.ones(2).half()}), file)
    assert only(problems_of(folder)) == f"{file}: not a tensor of an adapter, such as a base weight: {name!r}."


def test_many_unknown_tensors_are_counted_not_all_listed(folder):
    rewrite(folder, lambda t: t.update({f"head.x{i:02}": torch.ones(1).half() for i in range(100)}))
    problems = problems_of(folder)
    assert len(problems) == 21 and problems[-1] == "safety.safetensors: and 80 more problems."


def test_mis_shaped_tensor(folder):
    rewrite(folder, lambda t: t.update({"head.concepts": torch.ones(6, 15).half()}))
    assert "head.concepts has another shape: expected (6, 16), got (6, 15)" in only(problems_of(folder))


def test_a_tensor_of_size_zero_in_place_of_a_real_one(folder):
    rewrite(folder, lambda t: t.update({"head.concepts": torch.ones(6, 0).half()}))
    assert "head.concepts has another shape: expected (6, 16), got (6, 0)" in only(problems_of(folder))


def test_transposed_tensor_of_equal_size(folder):
    rewrite(folder, lambda t: t.update({"projector.out.weight": torch.ones(4, 64).half()}))
    assert "projector.out.weight has another shape: expected (16, 16), got (4, 64)" in only(problems_of(folder))


@pytest.mark.parametrize(
    ("dtype", "name"), [("float32", "F32"), ("bfloat16", "BF16"), ("int16", "I16"), ("bool", "BOOL")]
)
def test_wrong_dtype(folder, dtype, name):
    rewrite(folder, lambda t: t.update({"head.concepts": torch.ones(6, 16).to(getattr(torch, dtype))}))
    assert f"head.concepts has another dtype: expected F16, got {name}" in only(problems_of(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("file", "name"), [(SAFETY, "head.concepts"), (LORA, LORA_PREFIX + "layers.0.self_attn.q_proj.lora_A.weight")]
)
def test_nan_and_infinity(folder, file, name, value):
    rewrite(folder, lambda t: t[name].view(-1)[7:8].fill_(value), file)
    assert only(problems_of(folder)) == f"{file}: {name} holds NaN or infinity."


def test_taxonomy_that_does_not_match_the_head(folder):
    def seven_types(record):
        settings_of(record)["design"]["taxonomy"]["types"].append("weapons")
        settings_of(record)["thresholds"]["weapons"] = 0.5

    edit_config(folder, seven_types)
    problems = problems_of(folder)
    assert any("The taxonomy does not match the head" in p and "names 7 risk types" in p for p in problems)


def test_lora_outside_the_language_model(folder):
    name = "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    rewrite(folder, lambda t: t.update({name: torch.ones(2, 16).half()}), LORA)
    assert f"LoRA outside the language model: {name!r}" in only(problems_of(folder))


def test_lora_on_a_linear_the_config_does_not_name(folder):
    name = LORA_PREFIX + "layers.0.mlp.up_proj.lora_A.weight"
    rewrite(folder, lambda t: t.update({name: torch.ones(2, 32).half()}), LORA)
    assert f"unknown tensor: {name!r}" in only(problems_of(folder))


# The base


def test_an_adapter_for_the_13b_is_refused_on_the_7b(tmp_path):
    small, large = published_sizes("llava-1.5-7b"), published_sizes("llava-1.5-13b")
    modules = SafetyModules(SafetyConfig(width=16, lora=None), large)
    base = {"sizes": large, "fingerprint": {**FINGERPRINT, "text_width": 5120}}
    folder = save(tmp_path / "a", modules=modules, lora_tensors=None, **base)
    problems = problems_of(folder, sizes=small, fingerprint={**FINGERPRINT, "text_width": 4096})
    assert "other base: text_width: the adapter was made for 5120, this model has 4096." in problems
    assert "other base: num_layers: the adapter was made for 40, this model has 32." in problems
    assert read_adapter(folder, sizes=large).config.base.sizes == large


def test_other_base_by_sizes_names_every_difference(folder):
    larger = BaseSizes(16, 40, 4, (2, 2), 64, 3, SIZES.linears)
    assert problems_of(folder, sizes=larger) == [
        "other base: text_width: the adapter was made for 32, this model has 40.",
        "other base: num_layers: the adapter was made for 2, this model has 3.",
    ]


def test_rows_that_pad_the_vocabulary_make_no_other_base(folder):
    padded = dataclasses.replace(SIZES, vocab_size=SIZES.vocab_size + 64)
    read_adapter(folder, sizes=padded, fingerprint={**FINGERPRINT, "vocab_size": padded.vocab_size})


def test_the_same_sizes_but_other_weights_are_refused_and_called_so(folder):
    problem = only(problems_of(folder, sizes=SIZES, fingerprint={**FINGERPRINT, "digest": "xyz"}))
    assert problem.startswith("other base: digest: the adapter was made for 'abc', this model has 'xyz'.")
    assert "The same sizes but other weights" in problem


def test_another_architecture_is_refused(folder):
    problem = only(problems_of(folder, fingerprint={**FINGERPRINT, "architecture": "LlavaNext"}))
    assert "architecture" in problem and "same sizes" not in problem
    assert "architecture" in only(problems_of(folder, fingerprint={"digest": "abc"}))


def test_other_processor(folder):
    problem = only(problems_of(folder, processor={**PROCESSOR, "size": {"shortest_edge": 56}}))
    assert problem.startswith("other processor: size: the adapter was made for {'shortest_edge': 28}")


def test_check_base_can_be_asked_later(folder):
    adapter = read_adapter(folder)
    adapter.check_base(FINGERPRINT, SIZES, PROCESSOR)
    with pytest.raises(AdapterError, match="other base: digest"):
        adapter.check_base({**FINGERPRINT, "digest": "xyz"})


def test_all_problems_are_reported_at_once(folder):
    def spoil(tensors):
        del tensors["head.concepts"]
        tensors["head.type_bias"].fill_(float("nan"))

    rewrite(folder, spoil)
    (folder / LORA).unlink()
    edit_config(folder, lambda r: r.update(r=4), "lora/adapter_config.json")
    problems = problems_of(folder, fingerprint={**FINGERPRINT, "digest": "xyz"})
    for words in ("missing tensor", "NaN", "missing file lora/", "r does not match", "other base: digest"):
        assert any(words in problem for problem in problems), words
    assert len(problems) == 5


def test_a_lora_of_the_largest_rank_is_still_checked_quickly(folder):
    config = LoraSettings(r=4096, target_modules=("q_proj", "v_proj"))
    edit_config(folder, lambda r: settings_of(r)["design"]["lora"].update(r=config.r))
    assert any("has another shape: expected (4096, 32), got (2, 32)" in problem for problem in problems_of(folder))


def test_a_truncated_file_with_its_digest_fixed_is_still_refused(folder):
    replace(folder, (folder / SAFETY).read_bytes()[:-1])
    assert "safety.safetensors is truncated: expected" in only(problems_of(folder))
