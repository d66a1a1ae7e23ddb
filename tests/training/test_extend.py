"""A new type on a trained adapter: the old ones untouched, carried by the adapter, and taken off again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from guard_cases import attach_as_trained
from PIL import Image

from adapters import edit_config
from safety_modules import Policy, attach_safety
from safety_modules.adapter import read_adapter
from safety_modules.attach import SafetyAttachment
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import AdapterError, ConfigError, DataError, PolicyError
from safety_modules.policy import Rule
from safety_modules.records.record import Record
from safety_modules.training import outside
from safety_modules.training.extend import (
    RECIPE,
    default_rule,
    extend_safety,
    extended_config,
    merge_types,
    remove_type,
    rule_from,
)
from safety_modules.training.train import train_safety

FAST = RECIPE.model_copy(update={"steps": 6, "batch_size": 8, "warmup_steps": 0})


@pytest.fixture
def safety(model: Any, processor: Any) -> SafetyAttachment:
    attachment = attach_as_trained(model, processor)
    attachment.thresholds = {name: 0.1 * place for place, name in enumerate(attachment.config.taxonomy.types, 16)}
    return attachment


@pytest.fixture
def data(make_image: Callable[[int], Image.Image]) -> list[Record]:
    def one(seed: int, type: str, level: str) -> Record:
        return Record(image=make_image(seed), question="what is this?", answer=None, type=type, level=level)

    return [
        *(one(seed, "allergens", "high") for seed in range(6)),
        *(one(seed, "clean", "safe") for seed in range(6, 12)),
        one(12, "illegal", "low"),
    ]


def extended(safety: SafetyAttachment, data: list[Record], **options: Any) -> SafetyAttachment:
    return extend_safety(safety, data, "allergens", recipe=FAST, progress=False, **options)


def logits(safety: SafetyAttachment, data: list[Record]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of types and levels."""
    pixels = safety.backbone.pixel_values([one.load_image() for one in data])
    with safety.inference():
        output = safety.modules(safety.backbone.encode_images(pixels).vision)
    return output.type_logits, output.level_logits


def test_old_logits_are_what_they_were_and_the_new_one_stands_before_clean(
    safety: SafetyAttachment, data: list[Record]
) -> None:
    before, levels = logits(safety, data)
    extended(safety, data)
    after, _ = logits(safety, data)
    assert safety.config.taxonomy.labels[-2:] == ("allergens", "clean")
    assert torch.equal(after[:, :6], before[:, :6]) and torch.equal(after[:, -1], before[:, -1])
    assert torch.equal(logits(safety, data)[1], levels)
    branch = safety.modules.branch_of("allergens")
    assert safety.modules.head.type_bias.shape == (6,) and branch.head.type_bias.shape == (1,)


def test_what_is_outside_stays_what_it_was_and_the_branch_has_none(
    safety: SafetyAttachment, data: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "LEAST", 4)  # so that the few pictures of the new type would do
    train_safety(safety, data[6:], FAST, progress=False)
    before = {name: value.clone() for name, value in safety.modules.state_dict().items() if "outside" in name}
    assert before
    extended(safety, data)
    after = {name: value for name, value in safety.modules.state_dict().items() if "outside" in name}
    assert set(after) == set(before) and all(torch.equal(value, before[name]) for name, value in after.items())


def test_no_tensor_the_adapter_had_is_changed(safety: SafetyAttachment, data: list[Record]) -> None:
    before = {name: value.clone() for name, value in safety.modules.state_dict().items()}
    lora = {name: value.clone() for name, value in safety.lora.state_dict().items()}
    extended(safety, data)
    after = safety.modules.state_dict()
    assert before.keys() < after.keys()
    assert all(name.startswith("branches.0.") for name in after.keys() - before.keys())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(safety.lora.state_dict()[name], value) for name, value in lora.items())


def test_the_new_branch_is_trained(safety: SafetyAttachment, data: list[Record]) -> None:
    extended(safety, data, rule=None)
    short = {name: value.clone() for name, value in safety.modules.branch_of("allergens").state_dict().items()}
    extended(safety, data)  # again: the branch goes on from where it is
    again = safety.modules.branch_of("allergens").state_dict()
    changed = [name for name, value in short.items() if value.numel() and not torch.equal(value, again[name])]
    assert "head.concepts" in changed and "projector.down.weight" in changed
    assert safety.config.added == ("allergens",)


def test_removing_gives_the_old_verdicts_back_bit_for_bit(safety: SafetyAttachment, data: list[Record]) -> None:
    pictures = [one.load_image() for one in data]
    before, state = safety.classify(pictures), safety.modules.state_dict()
    extended(safety, data)
    assert "allergens" not in safety.thresholds  # the others' are nobody else's
    remove_type(safety, "allergens")
    assert safety.classify(pictures) == before
    assert {name: value.tolist() for name, value in safety.modules.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }
    assert safety.rules == {} and "allergens" not in safety.policy.rules


def test_the_adapter_carries_type_rule_and_branch(
    safety: SafetyAttachment, data: list[Record], tmp_path: Path, model: Any, processor: Any
) -> None:
    pictures = [one.load_image() for one in data]
    extended(safety, data)
    expected = safety.classify(pictures)
    folder = safety.save_pretrained(tmp_path / "a", "float32")
    safety.detach()
    again = attach_safety(model, processor, adapter=folder)
    assert again.classify(pictures) == expected
    assert again.policy.rules["allergens"] == default_rule("allergens")
    assert again.config.taxonomy.types[-1] == "allergens"
    # A policy of the user's own needs no rule for a type it does not know, and its rule wins where it has one.
    assert again.classify(pictures, policy=Policy.default().allow("illegal"))
    own = Policy.default().model_copy(update={"rules": {**Policy.default().rules, "allergens": Rule(action="log")}})
    assert again.policy_for(own).rules["allergens"].action == "log"


def test_switching_between_the_old_and_the_extended_adapter_needs_no_other_policy(
    safety: SafetyAttachment, data: list[Record], tmp_path: Path
) -> None:
    old = safety.save_pretrained(tmp_path / "old", "float32")
    extended(safety, data)
    safety.load_adapter(old, "old")
    safety.set_adapter("old")
    assert "allergens" not in safety.policy.rules
    safety.set_adapter("default")
    assert "allergens" in safety.policy.rules


def test_verdicts_of_the_old_types_stay_what_they_were_bit_for_bit(
    safety: SafetyAttachment, data: list[Record]
) -> None:
    pictures = [one.load_image() for one in data]
    before, thresholds = safety.classify(pictures), safety.thresholds
    assert len({verdict.flagged for verdict in before}) == 2
    extended(safety, data)
    assert safety.thresholds == thresholds
    after = safety.classify(pictures)
    for old, new in zip(before, after, strict=True):
        assert new.scores == {**old.scores, "allergens": new.scores["allergens"]}
        assert {name: new.probabilities[name] for name in old.probabilities} == old.probabilities
        if old.flagged or not new.flagged:
            assert (new.rule, new.type, new.level, new.risk) == (old.rule, old.type, old.level, old.risk)


def test_the_level_of_the_new_type_is_its_branch_s_and_that_of_others_the_head_s(
    safety: SafetyAttachment, data: list[Record]
) -> None:
    pictures = [one.load_image() for one in data]
    before = safety.classify(pictures)
    extended(safety, data)
    branch = safety.modules.branch_of("allergens")
    safety.thresholds = {**safety.thresholds, "allergens": 20.0}
    with torch.no_grad():
        branch.head.level.bias.copy_(torch.tensor([-50.0, -50.0, -50.0, 50.0]))
    assert [v.level_probabilities for v in safety.classify(pictures)] == [v.level_probabilities for v in before]
    with torch.no_grad():
        branch.head.type_bias.fill_(100)
    only = Policy.default().allow(*Policy.default().rules)
    for verdict in safety.classify(pictures, policy=only):
        assert verdict.type == "allergens" and verdict.level == "high" and verdict.level_probabilities["high"] > 0.99


def test_a_type_of_a_second_extension_moves_into_the_first(
    safety: SafetyAttachment, data: list[Record], tmp_path: Path
) -> None:
    plain = safety.save_pretrained(tmp_path / "plain", "float32")
    spiders = [one.model_copy(update={"type": "spiders"}) if one.type == "allergens" else one for one in data]
    extend_safety(safety, spiders, "spiders", recipe=FAST, progress=False)
    safety.thresholds = {**safety.thresholds, "spiders": 1.5}
    other = safety.save_pretrained(tmp_path / "other", "float32")
    there = safety.modules.branch_of("spiders").state_dict()
    remove_type(safety, "spiders")
    extended(safety, data)
    merge_types(safety, other)
    assert safety.thresholds["spiders"] == 1.5 and "allergens" not in safety.thresholds
    assert safety.config.taxonomy.types[-2:] == safety.config.added == ("allergens", "spiders")
    here = safety.modules.branch_of("spiders").state_dict()
    assert all(torch.equal(here[name], value) for name, value in there.items())
    with pytest.raises(ConfigError, match="got spiders again"):
        merge_types(safety, other)
    with pytest.raises(ConfigError, match="types of two first trainings cannot be merged"):
        merge_types(safety, plain)


def test_a_trained_adapter_is_trained_on_and_its_added_types_stay(
    safety: SafetyAttachment, data: list[Record], tmp_path: Path, model: Any, processor: Any
) -> None:
    extended(safety, data)
    folder = safety.save_pretrained(tmp_path / "a", "float32")
    safety.detach()
    again = attach_safety(model, processor, adapter=folder)
    again.temperature = 2.0
    before = {name: value.clone() for name, value in again.modules.state_dict().items()}
    train_safety(again, data, FAST, progress=False)
    after = again.modules.state_dict()
    assert not torch.equal(after["projector.down.weight"], before["projector.down.weight"])
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("branches."))
    assert again.thresholds == {} and again.temperature == 1


@pytest.mark.parametrize("name", ["train", "keys", "type", "branches"])
def test_a_type_may_be_called_like_something_of_torch_s(safety: SafetyAttachment, name: str) -> None:
    config = extended_config(safety.config, name)
    assert SafetyModules(config, safety.backbone.sizes).branch_of(name).config.taxonomy.types == (name,)


@pytest.mark.parametrize("name", ["illegal", "clean"])
def test_a_type_it_knows_is_no_new_type(safety: SafetyAttachment, data: list[Record], name: str) -> None:
    with pytest.raises(ConfigError, match="not a new type"):
        extend_safety(safety, data, name, progress=False)


@pytest.mark.parametrize("name", ["", "Allergens", "two words", "../x", "a" * 65])
def test_what_is_no_name_is_refused(safety: SafetyAttachment, data: list[Record], name: str) -> None:
    with pytest.raises(ConfigError, match="not a name for a type"):
        extend_safety(safety, data, name, progress=False)


def test_data_without_the_new_type_or_without_clean_pictures_are_refused(
    safety: SafetyAttachment, data: list[Record]
) -> None:
    with pytest.raises(DataError, match="expected samples for 50% risky"):
        extended(safety, data[6:])
    with pytest.raises(DataError, match="expected samples for 50% clean"):
        extended(safety, data[:6])
    assert safety.config.added == ()


def test_types_of_the_first_training_cannot_be_removed(safety: SafetyAttachment) -> None:
    with pytest.raises(ConfigError, match="expected one that was added"):
        remove_type(safety, "illegal")


def test_the_rule_comes_from_a_policy_file_or_from_the_name(tmp_path: Path) -> None:
    assert default_rule("nut_allergy") == Rule(title="nut allergy", reason="It carries a risk of nut allergy.")
    path = tmp_path / "policy.yaml"
    path.write_text("rules:\n  allergens:\n    action: refuse\n    reason: It could make someone ill.\n")
    assert rule_from(path, "allergens").reason == "It could make someone ill."
    with pytest.raises(PolicyError, match="expected one for 'spiders'"):
        rule_from(path, "spiders")


def test_an_adapter_cannot_bring_a_rule_for_a_type_the_user_s_policy_decides(
    safety: SafetyAttachment, data: list[Record], tmp_path: Path, model: Any, processor: Any
) -> None:
    extended(safety, data, rule=Rule(action="refuse"))
    fitted_rules = {**safety.rules, "illegal": Rule(action="allow")}
    safety.rules = fitted_rules
    folder = safety.save_pretrained(tmp_path / "a")
    safety.detach()
    again = attach_safety(model, processor, adapter=folder)
    assert again.policy.rules["illegal"] == Policy.default().rules["illegal"]
    assert again.policy.rules["allergens"].action == "refuse"


def test_a_file_without_the_branch_is_refused(safety: SafetyAttachment, tmp_path: Path) -> None:
    folder = safety.save_pretrained(tmp_path / "a", "float32")

    def claim(config: dict[str, Any]) -> None:
        settings = config["parts"][0]["settings"]
        settings["design"]["taxonomy"]["types"].append("allergens")
        settings["design"]["added"], settings["thresholds"] = ["allergens"], {}

    edit_config(folder, claim)
    with pytest.raises(AdapterError, match=r"missing tensor 'branches\.0\."):
        read_adapter(folder)


def test_a_design_names_its_added_types_last_and_never_only_those() -> None:
    config = extended_config(SafetyConfig(), "allergens")
    assert config.taxonomy.types == (*SafetyConfig().taxonomy.types, "allergens")
    assert config.with_added(()) == SafetyConfig()
    for added in (("politics",), config.taxonomy.types):
        with pytest.raises(ValueError, match="not the last"):
            SafetyConfig.model_validate({"taxonomy": config.taxonomy, "added": added})
