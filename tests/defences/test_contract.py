"""What every defence keeps to: on and off without a trace, rows, toggles, threads, failures, saving, refusals."""

import copy
import threading

import pytest
import torch
from defence_cases import FORMS, SETTINGS, built, kind_of, put_on
from guard_cases import NEW, ROWS, answers, rows_of

from safety_modules.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment, attached_to
from safety_modules.backbones import find_backbone
from safety_modules.backbones.fingerprint import LANGUAGE_MODEL
from safety_modules.defences.cmrm import Cmrm
from safety_modules.defences.davsp import Davsp
from safety_modules.defences.guard import Guard
from safety_modules.defences.lora_tuning import LoraTuning
from safety_modules.defences.meta_token import MetaToken
from safety_modules.defences.registry import GUARD_MODES, KINDS
from safety_modules.defences.shiftdc import ShiftDc
from safety_modules.defences.tga import Tga
from safety_modules.errors import AttachError, ConfigError, GuardError
from safety_modules.policy import Policy

pytestmark = pytest.mark.matrix

SLOW = {"cmrm-all", "shiftdc-lite"}  # near to others that are always tested
ALONE = [(kind,) for kind in (*KINDS, "always", "external", "selective", *FORMS)]
SEVERAL_PASSES = {"ecso", "shiftdc"}  # of `generate`: nothing for a loop of one's own
STACKS = [
    ("guard", "adashield-s"),
    ("guard", "lora"),
    ("lora", "guard"),
    ("guard", "ecso"),
    ("guard", "meta-token", "lora", "adashield-s"),
    ("external", "lora", "ecso"),
    ("guard", "cmrm"),
    ("selective", "cmrm"),
    ("selective", "lora", "tga-beside"),
    ("selective", "davsp", "ecso"),
    ("cmrm-sample", "guard", "lora", "shiftdc"),
    ("guard", "tga"),
    ("tga-pooled", "guard"),
    ("guard", "meta-token", "tga-pooled"),
    ("always", "tga-beside", "lora"),
    ("guard", "davsp"),
    ("davsp", "tga", "cmrm"),
    ("guard", "meta-token", "davsp", "tga-pooled"),
]
TEXT, SHOWN = 2, 0  # rows of ROWS without and with an image


def left_to_policy(names):
    """Whether no language model answers what is flagged."""
    return "external" in names or names == ("selective",)


def state_of(model):
    """All that must not change: modules by identity, their classes, hooks, attributes, numbers, flags."""
    parts = list(model.named_modules())
    return (
        [(name, id(part), type(part), len(part._forward_hooks), len(part._forward_pre_hooks)) for name, part in parts],
        [sorted(vars(part)) for _, part in parts],
        [(name, tensor.clone(), tensor.requires_grad) for name, tensor in model.state_dict(keep_vars=True).items()],
    )


def assert_same(now, before):
    assert now[:2] == before[:2]
    for (name, tensor, flag), (other, expected, wanted) in zip(now[2], before[2], strict=True):
        assert name == other and flag == wanted and torch.equal(tensor, expected), name


def cases(every, slow):
    return [pytest.param(names, id="+".join(names), marks=[pytest.mark.slow] * slow(names)) for names in every]


@pytest.fixture(params=cases([*ALONE, *STACKS], lambda names: bool(SLOW.intersection(names))))
def names(request):
    return request.param


@pytest.fixture
def warm(model, ask):
    """The base after its first call, in which transformers adds hooks and notes of its own."""
    model.generate(**ask(*ROWS[:2]), **NEW)
    return model


def test_on_and_off_again_without_a_trace(warm, processor, names, ask):
    before = state_of(warm)
    safety = put_on(warm, processor, names)
    warm.generate(**ask(*ROWS), **NEW)
    safety.detach()
    assert_same(state_of(warm), before)
    assert attached_to(warm) is None


def test_between_calls_nothing_stands_on_the_model(warm, processor, names, ask):
    safety = put_on(warm, processor, names)
    before = state_of(warm)
    for _ in range(2):
        safety.generate(**ask(*ROWS), **NEW)
    assert_same(state_of(warm), before)


def test_off_is_the_base_bit_for_bit(warm, processor, tiny_base, names, ask):
    safety, inputs = put_on(warm, processor, names), ask(*ROWS)
    expected = tiny_base.generate(**inputs, **NEW)
    kinds = [one.kind for one in safety.defences]
    for off in (False, [False] * len(ROWS), dict.fromkeys(kinds, False), {kind: [False] * len(ROWS) for kind in kinds}):
        assert torch.equal(warm.generate(**inputs, **NEW, safety=off), expected), off
    with safety.disabled():
        assert torch.equal(warm.generate(**inputs, **NEW), expected)
        with safety.disabled(kinds[0]):
            assert torch.equal(warm.generate(**inputs, **NEW), expected)
        assert not safety.enabled
    safety.disable(*kinds)
    assert not safety.enabled and torch.equal(warm.generate(**inputs, **NEW), expected)
    safety.enable()
    assert safety.enabled


def test_on_differs_from_off(warm, processor, tiny_base, names, ask):
    safety, inputs = put_on(warm, processor, names), ask(*ROWS)
    base, found = tiny_base.generate(**inputs, **NEW), safety.generate(**inputs, **NEW)
    # ecso on a model that says yes to nothing
    asked_more = "ecso" in names and any(usage.lm_passes != 1 for usage in found.usage)
    assert asked_more or not torch.equal(answers(found.sequences, inputs), answers(base, inputs))
    assert torch.equal(found.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])


def test_each_defence_of_a_stack_can_be_switched_off_alone(warm, processor, names, ask):
    safety, inputs = put_on(warm, processor, names), ask(*ROWS)
    for name in names:
        rest = tuple(other for other in names if other != name)
        found = safety.generate(**inputs, **NEW, safety={kind_of(name): False})
        with safety.disabled(kind_of(name)):
            assert torch.equal(warm.generate(**inputs, **NEW), found.sequences)
        if rest:
            backbone = find_backbone(_fresh(warm, safety), processor)
            alone = SafetyAttachment(backbone, [built(backbone, one) for one in rest], Policy.default())
            alone.install()
            assert torch.equal(alone.generate(**inputs, **NEW).sequences, found.sequences), name


def _fresh(model, safety):
    """A copy of the base below."""
    safety.detach()
    try:
        return copy.deepcopy(model)
    finally:
        safety.install()


def test_rows_that_are_off_are_the_bases_and_rows_that_are_on_their_own(warm, processor, tiny_base, names, ask):
    rows = [("what is this?", [1]), ("how do I use what is shown here?", [5]), ("why?", [7])]
    inputs, on = ask(*rows), [False, True, False]
    put_on(warm, processor, names)
    found = answers(warm.generate(**inputs, **NEW, safety=on), inputs)
    off = rows_of(inputs, [0, 2], [0, 2])
    assert torch.equal(found[[0, 2]], answers(tiny_base.generate(**off, **NEW), off)[:, : found.shape[1]])
    own = rows_of(inputs, [1], [1])
    mine = answers(warm.generate(**own, **NEW), own)
    assert torch.equal(found[1, : mine.shape[1]], mine[0])
    by_name = {kind_of(name): on for name in names}
    assert torch.equal(found, answers(warm.generate(**inputs, **NEW, safety=by_name), inputs))


def test_rows_without_an_image_are_the_bases_but_for_defences_of_the_language_model(
    warm, processor, tiny_base, names, ask
):
    safety, inputs = put_on(warm, processor, names), ask(ROWS[TEXT])
    same = torch.equal(warm.generate(**inputs, **NEW), tiny_base.generate(**inputs, **NEW))
    assert same is all(one.images_only for one in safety.defences)


def test_two_ways_to_ask_for_one_thing_agree(warm, processor, names, ask):
    safety, inputs = put_on(warm, processor, names), ask(*ROWS)
    one, other = safety.generate(**inputs, **NEW), warm.generate(**inputs, **NEW, return_dict_in_generate=True)
    assert torch.equal(one.sequences, other.sequences) and one.verdicts == other.verdicts
    assert one.usage == other.usage
    judged = [verdict is not None for verdict in one.verdicts]
    assert judged == [bool(seeds) and any(d.judges for d in safety.defences) for _, seeds in ROWS]


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_are_answered_row_by_row(warm, processor, names, ask, options):
    if "ecso" in names and "num_return_sequences" in options:
        pytest.skip("ecso answers once a row: tested below")
    safety, inputs = put_on(warm, processor, names), ask(*ROWS[:3])
    found = safety.generate(**inputs, **NEW | options)
    assert len(found.sequences) == 3 * options.get("num_return_sequences", 1)
    assert [usage.lm_passes >= 0 for usage in found.usage] == [True] * 3


def test_threads_do_not_see_each_other(warm, processor, tiny_base, names, ask):
    safety, inputs = put_on(warm, processor, names), ask(*ROWS[:3])
    calls = [
        lambda: warm.generate(**inputs, **NEW),
        lambda: warm.generate(**inputs, **NEW, safety=False),
        lambda: warm.generate(**inputs, **NEW, safety=[True, False, True]),
    ]
    expected, wrong = [call() for call in calls], []

    def work(number):
        for turn in range(6):
            kind = (number + turn) % len(calls)
            if not torch.equal(calls[kind](), expected[kind]):
                wrong.append((number, kind))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and torch.equal(expected[1], tiny_base.generate(**inputs, **NEW))
    assert safety.installed


class Stop(Exception):
    pass


@pytest.mark.parametrize("where", ["vision tower", "lm_head"])
def test_a_call_that_fails_leaves_no_trace(warm, processor, names, ask, monkeypatch, where):
    safety, inputs = put_on(warm, processor, names), ask(*ROWS)
    expected, before = warm.generate(**inputs, **NEW), state_of(warm)

    def fail(*args, **kwargs):
        raise Stop

    part = warm.lm_head if where == "lm_head" else safety.backbone.vision_tower
    with monkeypatch.context() as patch:
        patch.setattr(part, "forward", fail)
        with pytest.raises(Stop):
            warm.generate(**inputs, **NEW)
    assert_same(state_of(warm), before)
    assert torch.equal(warm.generate(**inputs, **NEW), expected)


def test_what_was_saved_answers_the_same_in_the_same_order(warm, processor, names, ask, tmp_path, tiny_base):
    safety, inputs = put_on(warm, processor, names), ask(*ROWS)
    folder = safety.save_pretrained(tmp_path / "adapter", dtype="float32")
    expected = safety.generate(**inputs, **NEW)
    again = attach_safety(copy.deepcopy(tiny_base), processor, folder)
    assert [one.kind for one in again.defences] == [kind_of(name) for name in names]
    for one, name in zip(again.defences, names, strict=True):
        if name in GUARD_MODES:
            one.mode = name  # of the moment, as a policy is
    found = again.generate(**inputs, **NEW)
    assert torch.equal(found.sequences, expected.sequences) and found.verdicts == expected.verdicts


def takes_no_tiles(model, processor, kind):
    """Whether this base cuts pictures into tiles and this kind of defence does not take them: it says so by name."""
    if kind != "davsp" or find_backbone(model, processor).sizes.tile is None:
        return False
    with pytest.raises(AttachError, match=r"davsp not attached: expected a base whose processor gives one whole"):
        attach_safety(model, processor, defence=kind)
    return True


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].needs_training])
def test_what_was_never_trained_is_not_used(warm, processor, kind, ask):
    if takes_no_tiles(warm, processor, kind):
        return
    attach_safety(warm, processor, defence=kind)
    with pytest.raises(GuardError, match=r"expected trained (safety modules|weights of)"):
        warm.generate(**ask(ROWS[SHOWN]), **NEW)
    assert warm.generate(**ask(ROWS[SHOWN]), **NEW, safety=False) is not None


def test_a_base_that_is_another_one_now_is_refused(warm, processor, names, ask):
    safety = put_on(warm, processor, names)
    with torch.no_grad():
        warm.model.language_model.layers[0].mlp.up_proj.weight.add_(1)
    if any(LANGUAGE_MODEL in one.depends_on(one.current_settings()) for one in safety.defences):
        with pytest.raises(AttachError, match="base changed"):
            warm.generate(**ask(ROWS[SHOWN]), **NEW)
    else:
        warm.generate(**ask(ROWS[SHOWN]), **NEW)


def test_images_that_cannot_be_seen_are_refused(warm, processor, names, ask):
    put_on(warm, processor, names)
    with pytest.raises(GuardError, match="inputs_embeds"):
        warm.generate(inputs_embeds=torch.zeros(1, 4, 32), **NEW)
    for layer in (-1, -2, [1, 2]):  # another layer, even the base's own, would be another picture than was judged
        with pytest.raises(GuardError, match="got vision_feature_layer, in which the guard cannot judge images"):
            warm.generate(**ask(ROWS[SHOWN]), **NEW, vision_feature_layer=layer)


def test_unknown_names_are_told(warm, processor, names, ask):
    safety = put_on(warm, processor, names)
    with pytest.raises(GuardError, match="name of a defence"):
        warm.generate(**ask(ROWS[SHOWN]), **NEW, safety={"gaurd": False})
    for verb in (safety.enable, safety.disable, lambda name: safety.disabled(name).__enter__()):
        with pytest.raises(GuardError, match="no such defence: expected one of"):
            verb("gaurd")
    assert safety.enabled


@pytest.mark.parametrize("outer", [kind for kind in KINDS if KINDS[kind].changes_inputs])
@pytest.mark.parametrize("inner", [kind for kind in KINDS if KINDS[kind].judges])
def test_an_order_that_changes_what_is_judged_is_refused(warm, processor, outer, inner):
    before = state_of(warm)
    if takes_no_tiles(warm, processor, outer):
        return
    with pytest.raises(ConfigError, match=f"order refused: expected {inner} outside of {outer}"):
        attach_safety(warm, processor, defence=[outer, SETTINGS[inner]])
    with pytest.raises(ConfigError, match="one defence twice"):
        attach_safety(warm, processor, defence=[outer, outer])
    with pytest.raises(ConfigError, match=r"unknown defence: .* Did you mean 'ecso'"):
        attach_safety(warm, processor, defence="esco")
    assert_same(state_of(warm), before)


def test_a_loop_of_ones_own_gets_what_generate_does(warm, processor, names, ask):
    safety, inputs = put_on(warm, processor, names), ask(ROWS[SHOWN])
    if SEVERAL_PASSES & {*names} and not left_to_policy(names):  # which leaves it nothing to answer
        with pytest.raises(GuardError, match="answers in several passes"):
            safety.prepare(**inputs)
        return
    expected = safety.generate(**inputs, max_new_tokens=1, do_sample=False)
    prepared = safety.prepare(**inputs)
    if left_to_policy(names):
        assert prepared.rows == [] and list(prepared.refusals) == [0]
        return
    with prepared.running():
        logits = warm(**prepared.inputs).logits
    assert torch.equal(logits[:, -1].argmax(-1), expected.sequences[:, -1])
    assert prepared.verdicts == expected.verdicts


def test_a_loop_of_ones_own_leaves_rows_that_are_off_alone(warm, processor, tiny_base, names, ask):
    if SEVERAL_PASSES & {*names} or left_to_policy(names):
        return
    rows = [("what is this?", [1]), ("how do I use what is shown here?", [5])]
    safety, inputs = put_on(warm, processor, names), ask(*rows)
    prepared = safety.prepare(**inputs, safety=[True, False])
    assert prepared.verdicts[1] is None and prepared.rows == [0, 1]
    ids = prepared.input_ids[1][prepared.attention_mask[1].bool()]
    assert torch.equal(ids, inputs["input_ids"][1][inputs["attention_mask"][1].bool()])
    own = rows_of(inputs, [1], [1])
    with prepared.running():
        found = warm(**prepared.inputs).logits[1, -1]
    with torch.no_grad():
        assert torch.allclose(found, tiny_base(**own).logits[0, -1], atol=1e-4)


def refusing(policy):
    for name in policy.rules:
        policy = policy.with_rule(name, action="refuse")
    return policy


@pytest.mark.parametrize("name", ["gated", "always", "external", "meta-token"])
def test_who_judges_refuses_where_the_policy_says_so(warm, processor, tiny_base, name, ask):
    safety, inputs = put_on(warm, processor, [name]), ask(*ROWS[:3])
    safety.policy = refusing(Policy.default())
    found = safety.generate(**inputs, **NEW | {"max_new_tokens": 60})
    texts = processor.batch_decode(answers(found.sequences, inputs), skip_special_tokens=True)
    for row, (verdict, text) in enumerate(zip(found.verdicts, texts, strict=True)):
        if verdict is None:
            continue
        assert verdict.action == "refuse" and text.strip().startswith("I'm sorry, I can't help with that."), row
        assert found.usage[row].new_tokens == 0
    assert [refusal is None for refusal in found.refusals] == [False, False, True]
    assert [verdict is None for verdict in found.verdicts] == [False, False, True]
    prepared = safety.prepare(**inputs)
    assert prepared.rows == [2] and sorted(prepared.refusals) == [0, 1]
    nothing = safety.prepare(**ask(ROWS[SHOWN]))
    assert nothing.rows == [] and [*nothing.refusals] == [0]


def test_two_that_judge_look_at_what_was_asked_and_hint_once(warm, processor, ask):
    inputs = ask(ROWS[SHOWN])
    alone = {}
    for name in ("guard", "meta-token"):
        safety = put_on(warm, processor, [name])
        alone[name] = safety.generate(**inputs, **NEW).verdicts[0].scores
        safety.detach()
    for order in (("guard", "meta-token"), ("meta-token", "guard")):
        safety = put_on(warm, processor, order)
        prepared = safety.prepare(**inputs)
        assert processor.tokenizer.decode(prepared.input_ids[0]).count("Note:") == 1, order
        seen = prepared.verdicts[0].scores
        # The riskier of the two verdicts, as it is given alone.
        assert any(all(abs(seen[name] - own[name]) < 1e-3 for name in own) for own in alone.values()), order
        safety.detach()


def test_a_defence_of_another_model_is_refused(warm, processor, tiny_base):
    other = find_backbone(copy.deepcopy(tiny_base), processor)
    for name in ("lora", "guard", "adashield-s"):
        with pytest.raises(ConfigError, match=f"another model's defence: expected {name} made for this model"):
            attach_safety(warm, processor, defence=built(other, name))
    for wrong in (5, type(built(other, "ecso")), object()):
        with pytest.raises(ConfigError, match="unknown defence"):
            attach_safety(warm, processor, defence=wrong)


def test_off_is_off_while_somebody_has_mounted_a_lora(warm, processor, tiny_base, ask):
    inputs, text = ask(*ROWS), ask(ROWS[TEXT])
    for name in ("guard", "lora", "meta-token"):
        safety = put_on(warm, processor, [name])
        with safety.defences[0].lora.mounted():
            assert torch.equal(warm.generate(**inputs, **NEW, safety=False), tiny_base.generate(**inputs, **NEW))
            off = {name: [False] * len(ROWS)}
            assert torch.equal(warm.generate(**inputs, **NEW, safety=off), tiny_base.generate(**inputs, **NEW))
            if name == "guard":
                assert torch.equal(warm.generate(**text, **NEW), tiny_base.generate(**text, **NEW))
        safety.detach()


def test_all_off_and_all_on_mean_every_adapters_defences(warm, processor, ask, tmp_path):
    lora = put_on(warm, processor, ["lora"])
    folder = lora.save_pretrained(tmp_path / "lora")
    lora.detach()
    safety, inputs = put_on(warm, processor, ["guard"]), ask(ROWS[SHOWN])
    safety.load_adapter(folder, "l")
    safety.disable()
    safety.set_adapter("l")
    assert not safety.enabled
    safety.enable("guard")
    assert not safety.enabled
    safety.enable()
    safety.set_adapter("default")
    assert safety.enabled and safety.generate(**inputs, **NEW).verdicts[0] is not None
    with safety.disabled("lora"):
        assert safety.enabled
        safety.set_adapter("l")
        assert not safety.enabled


def test_what_is_attached_beside_stays_beside_every_adapter(warm, processor, tmp_path):
    folders = {}
    for names in (("guard",), ("guard", "lora"), ("lora",)):
        safety = put_on(warm, processor, names)
        folders["+".join(names)] = safety.save_pretrained(tmp_path / "+".join(names))
        safety.detach()

    def kinds(safety):
        return [one.kind for one in safety.defences]

    safety = attach_safety(warm, processor, folders["guard"], defence=["external", "ecso"], adapter_name="a")
    safety.load_adapter(folders["guard+lora"], "b")
    assert kinds(safety) == ["guard", "ecso"] and safety.guard.mode == "external"
    safety.set_adapter("b")
    assert kinds(safety) == ["guard", "ecso", "lora"] and safety.guard.mode == "external"
    safety.detach()
    for named in ("guard", "external", "lora", None):
        safety = attach_safety(warm, processor, folders["guard+lora"], defence=named)
        assert kinds(safety) == ["guard", "lora"], named
        safety.detach()
    safety = attach_safety(warm, processor, folders["guard+lora"], defence=["lora", "guard"])
    assert kinds(safety) == ["lora", "guard"]
    safety.detach()
    with pytest.raises(ConfigError, match="order refused"):
        attach_safety(warm, processor, folders["guard"], defence=["adashield-s", "guard"])
    for first in ("guard", "lora"):
        safety = attach_safety(warm, processor, defence=first)
        safety.load_adapter(folders["guard+lora"], "more")
        safety.set_adapter("more")
        assert kinds(safety) == ["guard", "lora"] and all(one.trained for one in safety.defences)
        safety.detach()


def test_merged_lora_is_the_guards(warm, processor):
    with pytest.raises(GuardError, match="no guard"):
        attach_safety(warm, processor, defence="lora", merge_lora=True)
    assert attached_to(warm) is None


def test_a_decoding_of_ones_own_may_give_anything_but_nothing_is_judged_by_it(warm, processor, ask):
    inputs = ask(("why?", [7]))

    def strange(model, input_ids, **kwargs):
        return {"text": "Sure."}

    safety = put_on(warm, processor, ["lora"])
    assert warm.generate(**inputs, custom_generate=strange) == {"text": "Sure."}
    with pytest.raises(GuardError, match="no verdicts"):
        safety.generate(**inputs, custom_generate=strange, safety=False)
    safety.detach()
    put_on(warm, processor, ["ecso"])
    with pytest.raises(GuardError, match="got custom_generate"):
        warm.generate(**inputs, custom_generate=strange)


def test_ecso_says_what_it_cannot_give(warm, processor, ask):
    attach_safety(warm, processor, defence="ecso")
    for options in ({"num_return_sequences": 2, "num_beams": 2}, {"output_scores": True}):
        with pytest.raises(GuardError, match="expected one answer a row"):
            warm.generate(**ask(ROWS[SHOWN]), **NEW | options)


def test_the_kinds_are_what_the_tests_know():
    assert list(KINDS) == ["guard", "adashield-s", "ecso", "lora", "meta-token", "cmrm", "shiftdc", "tga", "davsp"]
    assert issubclass(KINDS["guard"], Guard) and issubclass(KINDS["lora"], LoraTuning)
    assert issubclass(KINDS["meta-token"], MetaToken)
    assert issubclass(KINDS["cmrm"], Cmrm) and issubclass(KINDS["shiftdc"], ShiftDc)
    assert issubclass(KINDS["tga"], Tga) and issubclass(KINDS["davsp"], Davsp)
