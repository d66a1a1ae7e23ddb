"""One folder holds several defences: each is checked, loaded and told by its kind."""

import hashlib
import json

import peft
import pytest
import safetensors.torch
import torch

from adapters import (
    FINGERPRINT,
    META,
    META_LORA,
    SIZES,
    THRESHOLDS,
    as_version,
    edit_config,
    make_guard,
    make_meta,
    make_parts,
    only,
    problems_of,
    rewrite,
    save,
)
from safety_modules.adapter import read_adapter, save_adapter
from safety_modules.adapter.describe import adapter_record, adapter_text
from safety_modules.adapter.format import format_files
from safety_modules.attach import attach_safety
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.defences.adashield import AdaShieldSettings
from safety_modules.defences.base import Defence, Settings
from safety_modules.defences.lora_tuning import LoraTuningSettings
from safety_modules.defences.meta_token import MetaTokenSettings
from safety_modules.defences.registry import KINDS
from safety_modules.defences.tga import TgaSettings
from safety_modules.errors import AdapterError

RANK = LoraSettings(r=1, target_modules=("q_proj",))
DESIGN = SafetyConfig(width=8, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=None)


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "adapter", inner=[make_meta()])


def test_every_part_comes_back_in_order_with_its_settings_and_tensors(tmp_path):
    meta = make_meta()
    adapter = read_adapter(save(tmp_path / "a", inner=[meta], dtype="float32"))
    guard, other = adapter.parts
    assert adapter.kinds == ["guard", "meta-token"] and adapter.part("meta-token") is other
    assert guard.settings == adapter.guard and other.settings == meta.settings
    for mine, theirs in ((meta.modules.state_dict(), other.tensors), (meta.lora.tensors, other.lora_tensors)):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_order_that_is_saved_is_the_order_that_is_read(tmp_path):
    guard = make_guard(*make_parts(), thresholds=THRESHOLDS)
    folder = save_adapter(tmp_path / "a", [make_meta(), guard], fingerprint=FINGERPRINT, sizes=SIZES)
    assert read_adapter(folder).kinds == ["meta-token", "guard"]


def attach_three(model, processor):
    inner = [LoraTuningSettings(lora=RANK), MetaTokenSettings(tokens=1, hidden=0.1, lora=RANK)]
    safety = attach_safety(model, processor, config=DESIGN, defence=["guard", *inner])
    for defence in safety.defences:
        defence.trained = True
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            for _, parameter in defence.named_parameters():
                parameter.normal_(std=0.1)
    return safety


def test_three_trained_defences_are_saved_together_and_attach_as_they_were(model, processor, tmp_path):
    safety = attach_three(model, processor)
    safety.thresholds = dict.fromkeys(DESIGN.taxonomy.types, 0.5)
    folder = safety.save_pretrained(tmp_path / "a", "float32")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files <= set(format_files()) and "lora-lora/adapter_model.safetensors" in files and "lora" not in files
    before = {f"{one.kind}.{name}": p.clone() for one in safety.defences for name, p in one.named_parameters()}
    safety.detach()
    again = attach_safety(model, processor, folder)
    assert [one.kind for one in again.defences] == ["guard", "lora", "meta-token"]
    assert all(one.trained for one in again.defences) and again.thresholds["illegal"] == 0.5
    after = {f"{one.kind}.{name}": p for one in again.defences for name, p in one.named_parameters()}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_another_kinds_lora_loads_into_plain_peft(model, processor, tmp_path):
    safety = attach_three(model, processor)
    folder, lora = safety.save_pretrained(tmp_path / "a", "float32"), safety.defences[1].lora
    expected = {name: tensor.clone() for name, tensor in lora.state_dict().items()}
    safety.detach()
    plain = peft.PeftModel.from_pretrained(model, folder / "lora-lora")
    found = peft.get_peft_model_state_dict(plain)
    assert {name.partition("language_model.")[2] for name in found} == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name.partition("language_model.")[2]])


def test_a_training_free_defence_is_saved_in_its_place_as_words_alone(model, processor, tmp_path):
    own = AdaShieldSettings(prompt="Look twice.")
    safety = attach_safety(model, processor, config=DESIGN, defence=["guard", own, "ecso"])
    safety.trained = True
    folder = safety.save_pretrained(tmp_path / "a")
    found = read_adapter(folder)
    assert found.kinds == ["guard", "adashield-s", "ecso"] and found.part("adashield-s").settings == own
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "safety.safetensors"}
    record = json.loads((folder / "adapter_config.json").read_text())
    assert [part["depends_on"] for part in record["parts"]][1:] == [[], []]
    edit_config(folder, lambda r: r["parts"][2]["settings"].update(tell="{question.__class__}"))
    assert "unknown place {question.__class__}; a sentence may use {question}, {answer}" in only(problems_of(folder))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "adashield-s.prompt: String should have at least 1 character"),
        ("x" * 4001, "adashield-s.prompt: String should have at most 4000 characters"),
        ("\x1b[2J", "adashield-s.prompt: Value error, expected a prompt of printable characters and line breaks"),
        (["x"], "adashield-s.prompt: Input should be a valid string"),
    ],
)
def test_a_strangers_prompt_is_short_and_printable(folder, prompt, words):
    part = {"kind": "adashield-s", "settings": {"prompt": "Look\ntwice."}, "depends_on": []}
    edit_config(folder, lambda r: r["parts"].append(part))
    assert read_adapter(folder).kinds == ["guard", "meta-token", "adashield-s"]
    edit_config(folder, lambda r: r["parts"][2]["settings"].update(prompt=prompt))
    assert words in only(problems_of(folder))


def test_an_adapter_without_a_guard_says_so(tmp_path):
    folder = save_adapter(tmp_path / "a", [make_meta()], fingerprint=FINGERPRINT, sizes=SIZES)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "meta-token-lora", META]
    with pytest.raises(AdapterError, match="no guard: expected an adapter that has one, got meta-token"):
        _ = read_adapter(folder).guard


def test_what_is_replaced_leaves_no_file_of_an_older_part(folder):
    save(folder)
    assert not (folder / META).exists() and not (folder / "meta-token-lora").exists()
    assert read_adapter(folder).kinds == ["guard"]


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (META, lambda t: t.pop("tokens.weight"), "missing tensor 'tokens.weight'"),
        (META, lambda t: t.update({"head.9.weight": torch.ones(2).half()}), "unknown tensor: 'head.9.weight'"),
        (META, lambda t: t.update({"lm_head.weight": torch.ones(2).half()}), "such as a base weight"),
        (META, lambda t: t.update({"tokens.weight": torch.ones(2, 32).half()}), "expected (3, 32), got (2, 32)"),
        (META, lambda t: t.update({"tokens.weight": torch.ones(3, 32)}), "another dtype: expected F16, got F32"),
        (META, lambda t: t["tokens.weight"].view(-1)[:1].fill_(float("nan")), "tokens.weight holds NaN or infinity"),
        (META_LORA, lambda t: t.popitem(), "missing tensor 'base_model"),
        (META_LORA, lambda t: next(iter(t.values())).view(-1)[:1].fill_(float("inf")), "holds NaN or infinity"),
    ],
)
def test_tensors_of_another_kind_are_checked_as_a_guards_are(folder, file, change, words):
    rewrite(folder, change, file)
    problem = only(problems_of(folder))
    assert problem.startswith(f"{file}: ") and words in problem


def test_a_digest_that_does_not_match_is_refused_in_the_inner_part_too(folder):
    rewrite(folder, lambda t: t["tokens.weight"].add_(1), META, fix_digest=False)
    assert f"{META} was changed after saving" in only(problems_of(folder))


def test_problems_of_all_parts_come_at_once_and_name_their_kinds(folder):
    def spoil(record):
        guard, meta = record["parts"]
        guard["settings"].update(temperature=0.0)
        meta["settings"].update(hidden=-1, thresholds={"weapons": 1.0})
        meta["settings"]["lora"].update(r="8")

    edit_config(folder, spoil)
    problems = problems_of(folder)
    for words in ("guard.temperature", "meta-token.hidden", "meta-token.lora.r: Input should be a valid integer"):
        assert any(problem.startswith(f"adapter_config.json: {words}") for problem in problems), words
    assert len(problems) == 3


def test_thresholds_of_meta_tokens_fit_their_taxonomy(folder):
    edit_config(folder, lambda r: r["parts"][1]["settings"].update(thresholds={"weapons": 1.0}))
    assert "meta-token: Value error, thresholds do not match the taxonomy" in only(problems_of(folder))


@pytest.mark.parametrize("kind", [None, 3, ["guard"], {}, "nothing"])
def test_a_part_whose_kind_is_none_is_refused_with_all_its_problems(folder, kind):
    edit_config(folder, lambda r: r["parts"].insert(0, {} if kind is None else {"kind": kind}))
    assert any("parts.0.settings" in problem for problem in problems_of(folder))


def test_two_parts_of_one_kind_are_refused(folder):
    edit_config(folder, lambda r: r["parts"].append(r["parts"][0]))
    assert "one defence twice: expected each kind once, got guard again" in only(problems_of(folder))


class Rewording(Defence):
    kind = "rewording"
    changes_inputs = True
    needs_training = True


def test_an_order_in_which_one_changes_what_another_judges_is_refused(folder, monkeypatch):
    monkeypatch.setitem(KINDS, "rewording", Rewording)
    rewording = {"kind": "rewording", "settings": {}, "depends_on": ["vision"]}
    edit_config(folder, lambda r: r["parts"].append(rewording))
    assert read_adapter(folder).parts[2].settings == Settings()
    edit_config(folder, lambda r: r["parts"].insert(1, r["parts"].pop()))
    assert "order refused: expected meta-token outside of rewording" in only(problems_of(folder))


def test_the_tensors_of_all_parts_together_have_a_limit(folder, monkeypatch):
    monkeypatch.setattr("safety_modules.adapter.format.MOST_TENSOR_BYTES", 10_000)
    assert "the design is too large: expected at most 10000 bytes" in only(problems_of(folder))


def test_the_language_model_counts_where_a_part_depends_on_it(tmp_path):
    made = {**FINGERPRINT, "language_model": "x"}
    without = SafetyConfig(width=16, lora=None)
    alone = save(tmp_path / "alone", config=without, fingerprint=made)
    read_adapter(alone, fingerprint={**made, "language_model": "y"})
    both = save(tmp_path / "both", config=without, inner=[make_meta()], fingerprint=made)
    assert "other base: language_model" in only(problems_of(both, fingerprint={**made, "language_model": "y"}))
    record = json.loads((both / "adapter_config.json").read_text())
    assert [part["depends_on"] for part in record["parts"]] == [["vision"], ["vision", "language_model"]]


class Wordless(Rewording):
    """Depends on the language model alone."""

    kind = "wordless"

    @classmethod
    def depends_on(cls, settings):
        return ("language_model",)


def test_tower_and_projector_count_only_where_a_part_depends_on_them(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "wordless", Wordless)
    part = object.__new__(Wordless)
    part.settings = Settings()
    folder = save_adapter(tmp_path / "a", [part], fingerprint={**FINGERPRINT, "language_model": "x"}, sizes=SIZES)
    read_adapter(folder, fingerprint={**FINGERPRINT, "language_model": "x", "digest": "xyz"})
    other = {**FINGERPRINT, "language_model": "y", "digest": "xyz"}
    assert "other base: language_model" in only(problems_of(folder, fingerprint=other))


def test_a_config_of_version_4_cannot_hold_parts(folder, tmp_path):
    edit_config(folder, lambda r: r.update(format_version=4))
    problems = problems_of(folder)
    assert any("unknown key 'parts'" in problem for problem in problems)
    assert any("missing key 'safety'" in problem for problem in problems)
    old = as_version(save(tmp_path / "old"), 4)
    edit_config(old, lambda r: r.update(kind="guard"))
    assert "unknown key 'kind'" in only(problems_of(old))


def test_inspect_shows_every_part(folder):
    record = adapter_record(folder)
    assert record["kinds"] == ["guard", "meta-token"] and record["settings"]["meta-token"]["tokens"] == 3
    assert record["parts"]["meta-token: tokens"]["parameters"] == 3 * 32
    printed = adapter_text(json.loads(json.dumps(record)))
    assert "defences: guard, meta-token" in printed and "meta-token: tokens 3, hidden 0.5" in printed


def test_a_projectors_lora_has_the_projectors_names_and_shapes_alone(model, processor, tmp_path):
    lora = LoraSettings(r=2, target_modules=("linear_1", "linear_2"))
    safety = attach_safety(model, processor, defence=TgaSettings(form="pooled", lora=lora))
    safety.defences[0].trained = True
    folder = safety.save_pretrained(tmp_path / "a", "float32")
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "tga-lora"}
    file = folder / "tga-lora" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    prefix = "base_model.model.model.multi_modal_projector."
    assert {name.removeprefix(prefix): tuple(one.shape) for name, one in tensors.items()} == {
        "linear_1.lora_A.weight": (2, 24),
        "linear_1.lora_B.weight": (32, 2),
        "linear_2.lora_A.weight": (2, 32),
        "linear_2.lora_B.weight": (32, 2),
    }
    outside = {"base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(2, 32)}
    safetensors.torch.save_file({**tensors, **outside}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    edit_config(folder, lambda r: r["files"].update({"tga-lora/adapter_model.safetensors": digest}))
    assert "LoRA outside the projector" in only(problems_of(folder))
    edit_config(folder, lambda r: r["parts"][0]["settings"]["lora"].update(target_modules=["q_proj"]))
    assert any("some of linear_1, linear_2" in problem for problem in problems_of(folder))
