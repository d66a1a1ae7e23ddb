"""A new risk type for a trained adapter, from few pictures and without touching the old types; and away again.

The new type gets a branch of its own (`SafetyModules`), trained to tell it from everything else. Nothing the adapter
had is trained or changed: the logits of the old types and of clean stay what they are, LoRA and language-model tokens
too, and taking the type away gives the old adapter back, bit for bit. What the language model says about it comes from
the policy: the adapter carries the type's rule along.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from safety_modules.attach.adapters import fit_adapter
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.guard import Guard, GuardSettings, guard_among
from safety_modules.defences.guard.modules import ModuleSet, SafetyModules
from safety_modules.errors import ConfigError, PolicyError
from safety_modules.policy.policy import Policy, Rule, default_rule
from safety_modules.records.record import Record
from safety_modules.taxonomy import CLEAN
from safety_modules.training.recipe import Recipe
from safety_modules.training.train import Data, Pathlike, records_of, train_safety

RECIPE = Recipe(
    stage=1,
    steps=500,
    batch_size=48,
    learning_rate=3e-3,
    warmup_steps=30,
    weight_decay=0.01,
    clean_share=0.5,
    no_question_rate=0.3,
    feature_noise=0.1,
    patch_dropout=0.5,
    label_smoothing=0.01,
    level_weight=0.5,
)
"""How a branch is trained unless another recipe is given: a hundred pictures are seen about 120 times each."""


def extend_safety(
    attachment: SafetyAttachment,
    data: Data,
    name: str,
    rule: Rule | None = None,
    recipe: Recipe | Pathlike = RECIPE,
    *,
    output_dir: Pathlike | None = None,
    cache_dir: Pathlike | None = None,
    progress: bool = True,
) -> SafetyAttachment:
    """Add a risk type to the active adapter, or train an added one on.

    Args:
        attachment: with a trained adapter; changed in place.
        data: records of the new type (about a hundred) and clean ones, best several times as many and like the ones
            the guard will see; records of old types may be among them and count as "not the new one". Or what
            `read_good_records` found, or a file or folder of them (see `read_records`).
        name: of the type: lower-case letters, digits, underscores.
        rule: what the policy does about it; default: `default_rule(name)`, or the one it has.
        recipe: of stage 1.
        output_dir: see `train_safety`.
        cache_dir: keeps vision features between runs; None = in memory only.
        progress: show bars.

    Returns:
        The attachment. Thresholds, temperature and verdicts of the other types are what they were; the new type has no
        threshold yet, so the policy's default holds for it. What was promised about false alarms held without it:
        calibrate it (`calibrate(..., types=[name])`).

    Raises:
        ConfigError: not a new name, or a recipe that is not stage 1's.
        DataError: a record cannot be used, or there are none of the new type or no clean ones.
        PolicyError: the rule does not fit the levels.

    Does not cover: more data of a type the adapter was first trained with (`train_safety` does that and may move all
    types), and LoRA: refusals of the new type come from the rule's words, not from training.
    """
    design = extended_config(attachment.config, name)
    stage = recipe if isinstance(recipe, Recipe) else Recipe.from_yaml(recipe)
    if stage.stage != 1:
        raise ConfigError(f"no new type: expected a recipe of stage 1, got stage {stage.stage}. Name another.")
    known = records_of(data, design.taxonomy)
    rule = rule or attachment.rules.get(name) or default_rule(name)
    policy = Policy(rules={name: rule}, wording=attachment.policy.wording)
    modules = _branch(attachment, design, name)
    new: dict[str, Any] = {"lora": None, "thresholds": {}, "temperature": 1.0, "rules": {}, "trained": False}
    helper = SafetyAttachment(attachment.backbone, [attachment.guard.changed(modules=modules, **new)], policy)
    others = replace(known, records=_one_type(known.records, name, design.taxonomy.safe_level))
    train_safety(helper, others, stage, output_dir=output_dir, cache_dir=cache_dir, progress=progress)
    modules.know(outside=None)  # of the pictures that the whole adapter was trained on, it says so itself
    _put(attachment, {**_branches(attachment), name: modules}, {**attachment.rules, name: rule})
    return attachment


def remove_type(attachment: SafetyAttachment, name: str) -> SafetyAttachment:
    """Take an added type off the active adapter, with its threshold and its rule.

    All else stays, so where the others' thresholds were not set anew since, the adapter and its verdicts are again
    those from before, bit for bit.

    Raises:
        ConfigError: not an added type.
    """
    if name not in attachment.config.added:
        raise ConfigError(
            f"type not removed: expected one that was added ({', '.join(attachment.config.added) or 'there is none'}), "
            f"got {name!r}. Types from the first training are switched off by the policy: Policy.allow."
        )
    branches, rules = _branches(attachment), attachment.rules
    del branches[name]
    rules.pop(name, None)
    _put(attachment, branches, rules)
    return attachment


def merge_types(attachment: SafetyAttachment, adapter: Pathlike) -> SafetyAttachment:
    """Copy the added types of another adapter for the same base into the active one, with their rules and thresholds.

    A branch rests on the base's features alone, so it says the same beside any head. What was promised about false
    alarms held for each adapter alone: calibrate again. The first types of two adapters
    cannot be merged: each head reads features of its own projector, and nothing makes their logits comparable. Train
    one of them on with the other's data, or keep both at hand (`load_adapter`).

    Raises:
        AdapterError: the other adapter is refused.
        ConfigError: it has no added type, or one whose name is taken.
    """
    other = guard_among(fit_adapter(attachment.backbone, adapter))
    names = other.config.added
    if not names:
        raise ConfigError(
            f"nothing to merge: expected an adapter with added types, got {adapter} without. The types of two first "
            "trainings cannot be merged: train one adapter on with the other's data."
        )
    taken = [name for name in names if name in attachment.config.taxonomy.types]
    if taken:
        raise ConfigError(f"types not merged: expected new names, got {', '.join(taken)} again. Remove them from one.")
    branches = {**_branches(attachment), **{name: other.modules.branch_of(name) for name in names}}
    limits = {name: limit for name, limit in other.thresholds.items() if name in names}
    _put(attachment, branches, {**attachment.rules, **other.rules}, limits)
    return attachment


def rule_from(path: Pathlike, name: str) -> Rule:
    """The rule of this type in a policy file. Raises PolicyError where there is none."""
    rules = Policy.from_yaml(path).rules
    if name not in rules:
        raise PolicyError(f"no rule: expected one for {name!r} in {path}, got {', '.join(rules)}. Add it.")
    return rules[name]


def extended_config(config: SafetyConfig, name: str) -> SafetyConfig:
    """The design with this added type; itself where it has it.

    Raises:
        ConfigError: a type from the first training, or no name for a type.
    """
    if name in config.added:
        return config
    if name in config.taxonomy.labels:
        raise ConfigError(
            f"not a new type: expected another name than {', '.join(config.taxonomy.labels)}, got {name!r}. "
            "More data of a known type: train without naming a new one."
        )
    try:
        return config.with_added((*config.added, name))
    except ValueError as error:
        raise ConfigError(
            f"not a name for a type: expected lower-case letters, digits and underscores, got {name!r}. Choose another."
        ) from error


def _branch(attachment: SafetyAttachment, design: SafetyConfig, name: str) -> SafetyModules:
    """The branch to train: a fresh one, or a copy of the one there is."""
    with attachment.backbone.lock:
        modules = Guard(attachment.backbone, GuardSettings(design=design.branch(name))).modules
    known = _branches(attachment)
    if name in known:
        modules.load_state_dict(known[name].state_dict())
    return modules


def _branches(attachment: SafetyAttachment) -> dict[str, ModuleSet]:
    return {name: attachment.modules.branch_of(name) for name in attachment.config.added}


def _one_type(records: list[Record], name: str, safe: str) -> list[Record]:
    """For the branch, whatever is not its type is clean."""
    return [
        record if record.type in (name, CLEAN) else record.model_copy(update={"type": CLEAN, "level": safe})
        for record in records
    ]


def _put(
    attachment: SafetyAttachment,
    branches: dict[str, ModuleSet],
    rules: dict[str, Rule],
    limits: Mapping[str, float] | None = None,
) -> None:
    """The active adapter with these branches; a threshold stays as long as its type."""
    modules = attachment.modules.with_branches(branches)
    types = modules.config.taxonomy.types
    known = {**attachment.thresholds, **(limits or {})}
    thresholds = {name: known[name] for name in types if name in known}
    attachment.change_active(modules=modules, thresholds=thresholds, rules=rules)
