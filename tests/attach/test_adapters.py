"""Several adapters on one model: the active one is used whole, the others wait."""

import copy
import threading
import time

import peft
import pytest
import torch
from guard_cases import attach_as_trained

from safety_modules.attach import attach_safety
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.errors import AdapterError, AttachError, PolicyError
from safety_modules.policy import Policy
from safety_modules.policy.policy import Rule
from safety_modules.policy.scores import LIMIT
from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy

HOUSE = Taxonomy(types=("smoke", "fire"), levels=("safe", "bad"))
HOUSE_POLICY = Policy(
    rules={name: {"action": "hint"} for name in HOUSE.types},
    wording={"bad": "Careful: {type}."},
    default_threshold=-LIMIT,
)


def make_adapter(base, processor, folder, seed, config=None, policy=None, threshold=-LIMIT):
    """A folder with an adapter that flags everything and changes answers."""
    safety = attach_as_trained(base, processor, config=config or SafetyConfig(num_lm_tokens=3), policy=policy)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in safety.parameters():
            parameter.normal_(std=0.3)
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, threshold)
    safety.save_pretrained(folder)
    safety.detach()
    return folder


@pytest.fixture(scope="module")
def folders(tiny_base, processor, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    base = copy.deepcopy(tiny_base)
    narrow = SafetyConfig(width=16, num_lm_tokens=0, lora=LoraSettings(r=2, target_modules=("q_proj",)))
    plain = SafetyConfig(width=16, taxonomy=HOUSE, lora=None)
    return {
        "a": make_adapter(base, processor, root / "a", seed=1),
        "b": make_adapter(base, processor, root / "b", seed=2, config=narrow, threshold=-3.0),
        "house": make_adapter(base, processor, root / "house", seed=3, config=plain, policy=HOUSE_POLICY),
    }


@pytest.fixture
def several(model, processor, folders):
    safety = attach_safety(model, processor, folders["a"], adapter_name="a")
    safety.load_adapter(folders["b"], "b")
    safety.load_adapter(folders["house"], "house")
    return safety


def answers(safety, ask):
    output = safety.generate(**ask(("what is this?", [1]), ("why?", [2])), max_new_tokens=5, do_sample=False)
    return output.sequences, output.verdicts


def alone(tiny_base, processor, folder, ask, policy=None):
    return answers(attach_safety(copy.deepcopy(tiny_base), processor, folder, policy=policy), ask)


def assert_same(got, expected):
    assert torch.equal(got[0], expected[0]) and got[1] == expected[1]


def test_each_adapter_answers_as_if_it_were_attached_alone(several, tiny_base, processor, folders, ask):
    for name, policy in (("b", None), ("house", HOUSE_POLICY), ("a", Policy.default()), ("b", None)):
        several.set_adapter(name, policy)
        assert several.active_adapter == name
        assert_same(answers(several, ask), alone(tiny_base, processor, folders[name], ask, policy))


def test_loading_does_not_switch(several, tiny_base, processor, folders, ask):
    assert several.adapters == ("a", "b", "house") and several.active_adapter == "a"
    assert_same(answers(several, ask), alone(tiny_base, processor, folders["a"], ask))


def test_config_thresholds_parameters_and_saving_are_the_active_ones(several, tmp_path):
    first = {name for name, _ in several.named_parameters()}
    several.set_adapter("b")
    assert several.config.num_lm_tokens == 0 and set(several.thresholds.values()) == {-3.0}
    assert {name for name, _ in several.named_parameters()} != first
    assert several.save_pretrained(tmp_path / "again").joinpath("safety.safetensors").is_file()
    again = copy.deepcopy(several.thresholds)
    several.thresholds = dict.fromkeys(again, 0.5)
    several.set_adapter("a")
    assert set(several.thresholds.values()) == {-LIMIT}
    several.set_adapter("b")
    assert set(several.thresholds.values()) == {0.5}, "each adapter keeps its own thresholds"


def test_an_unnamed_adapter_is_called_as_in_peft(model, processor):
    safety = attach_as_trained(model, processor)
    assert safety.adapters == ("default",) and safety.active_adapter == "default"


def test_a_policy_that_does_not_fit_is_refused_before_switching(several, ask):
    several.policy = policy = Policy.default()
    before = answers(several, ask)
    with pytest.raises(PolicyError, match="policy does not fit the taxonomy"):
        several.set_adapter("house")
    assert several.active_adapter == "a" and several.policy is policy and several.config.taxonomy == DEFAULT_TAXONOMY
    assert_same(answers(several, ask), before)


def test_where_nobody_names_a_policy_the_default_one_fits_whatever_adapter_is_active(
    several, tiny_base, processor, folders, ask
):
    safety = attach_safety(copy.deepcopy(tiny_base), processor, folders["house"])
    assert {*safety.policy.rules} == {*HOUSE.types} and {*safety.policy.wording} == {*HOUSE.risky_levels}
    assert all(rule.action == "hint" and rule.reason for rule in safety.policy.rules.values())
    several.set_adapter("house")
    found = answers(several, ask)
    assert_same(found, answers(safety, ask))
    safety.rules = {"smoke": Rule(action="refuse", reason="It smokes.")}
    assert safety.policy.rules["smoke"].action == "refuse" and safety.policy.rules["fire"].action == "hint"
    assert {verdict.type for verdict in found[1]} <= {*HOUSE.types}
    several.set_adapter("a")
    assert several.policy == Policy.default()
    several.set_adapter("house", HOUSE_POLICY)  # from now on somebody has
    with pytest.raises(PolicyError, match="policy does not fit the taxonomy"):
        several.set_adapter("a")


def test_names_are_checked(several, folders):
    with pytest.raises(AdapterError, match="expected one of a, b, house, got 'c'"):
        several.set_adapter("c")
    with pytest.raises(AdapterError, match="expected one of"):
        several.delete_adapter("c")
    with pytest.raises(AdapterError, match="name taken"):
        several.load_adapter(folders["b"], "b")
    assert several.adapters == ("a", "b", "house")


def test_the_active_adapter_cannot_be_deleted_the_others_can(several, folders):
    with pytest.raises(AdapterError, match="got the active one"):
        several.delete_adapter("a")
    several.delete_adapter("b")
    assert several.adapters == ("a", "house")
    several.load_adapter(folders["b"], "b")
    assert several.adapters == ("a", "house", "b")


def test_a_refused_adapter_leaves_the_shelf_as_it_was(several, tmp_path, ask):
    before = answers(several, ask)
    with pytest.raises(AdapterError, match="got nothing there"):
        several.load_adapter(tmp_path / "nowhere", "c")
    assert several.adapters == ("a", "b", "house")
    assert_same(answers(several, ask), before)


def test_nothing_is_switched_or_loaded_while_lora_is_mounted(several, folders):
    with several.lora_mounted(True):
        with pytest.raises(AttachError, match="not switched"):
            several.set_adapter("b")
        with pytest.raises(AttachError):
            several.load_adapter(folders["b"], "c")
    assert several.active_adapter == "a" and several.adapters == ("a", "b", "house")


def test_a_streamer_cannot_switch_in_the_middle_of_its_own_call(several, model, ask):
    class Switcher:
        def put(self, value):
            several.set_adapter("b")

        def end(self):
            pass

    with pytest.raises(AttachError, match="Switch between two calls"):
        model.generate(**ask(("what is this?", [1])), max_new_tokens=2, streamer=Switcher())
    assert several.active_adapter == "a"
    several.set_adapter("b")


def test_several_adapters_leave_the_base_bit_identical(several, tiny_base, model, ask):
    keys = list(tiny_base.state_dict())
    for name in ("b", "a", "b"):
        several.set_adapter(name)
        answers(several, ask)
    inputs = ask(("what is this?", [1]))
    expected = tiny_base.generate(**inputs, max_new_tokens=5)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, safety=False), expected)
    several.detach()
    assert list(model.state_dict()) == keys
    assert torch.equal(model.generate(**inputs, max_new_tokens=5), expected)


def test_switching_waits_for_a_running_call(several):
    switched = threading.Event()

    def other():
        several.set_adapter("b")
        switched.set()

    with several.inference():
        thread = threading.Thread(target=other)
        thread.start()
        assert not switched.wait(0.05)
        assert several.active_adapter == "a"
    thread.join(30)
    assert switched.is_set() and several.active_adapter == "b"


def test_calls_of_other_threads_see_one_adapter_whole(several, tiny_base, processor, folders, ask):
    expected = [alone(tiny_base, processor, folders[name], ask) for name in ("a", "b")]
    seen = []

    def ask_on():
        for _ in range(4):
            seen.append(answers(several, ask))

    threads = [threading.Thread(target=ask_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for name in ("b", "a"):
            several.set_adapter(name)
            threads[-1].join(0.002)
    assert len(seen) == 12
    for got in seen:
        assert any(torch.equal(got[0], one[0]) and got[1] == one[1] for one in expected)


def test_switching_takes_milliseconds(several):
    times = []
    for name in ("b", "a") * 20:
        start = time.perf_counter()
        several.set_adapter(name)
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 0.01


def test_the_lora_part_loads_in_plain_peft_and_gives_the_same_logits(several, tiny_base, folders, ask):
    inputs = ask(("what is this?", [1]))
    for name in ("a", "b"):
        several.set_adapter(name)
        with several.lora_mounted(True), torch.no_grad():
            expected = several.backbone.model(**inputs).logits
        plain = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_base), folders[name] / "lora").eval()
        with torch.no_grad():
            assert torch.equal(plain(**inputs).logits, expected)
            assert not torch.equal(tiny_base(**inputs).logits, expected)
        assert not any("vision_tower" in key for key, _ in plain.named_parameters() if "lora_" in key)
