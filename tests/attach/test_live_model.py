"""A live model that is not what it seems is refused by name, at attach or at the next call."""

import copy
import pickle
import threading
from functools import wraps
from io import BytesIO

import pytest
import torch
from guard_cases import NEW, attach_as_trained
from guard_policies import flag_nothing
from peft import LoraConfig, get_peft_model
from transformers import LlavaForConditionalGeneration, LlavaModel

from safety_modules.attach import SafetyAttachment, attach_safety, detach_safety
from safety_modules.backbones import find_backbone
from safety_modules.backbones.identity import used_layers
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard import Guard, GuardSettings
from safety_modules.errors import AdapterError, AttachError, GuardError
from safety_modules.policy import Policy

pytestmark = pytest.mark.matrix
SMALL = SafetyConfig(num_lm_tokens=3)


class OwnInner(LlavaModel):
    """What fully_shard makes of a class: a subclass of it."""


def patched(method):
    @wraps(method)
    def call(*args, **kwargs):
        return method(*args, **kwargs)

    return call


def patch_generate(model):
    model.generate = patched(model.generate)


def patch_features(model):
    model.get_image_features = patched(LlavaForConditionalGeneration.get_image_features)


def patch_inner_features(model):
    model.model.get_image_features = patched(model.model.get_image_features)


PATCHES = {
    "generate": patch_generate,
    "get_image_features": patch_features,
    "inner get_image_features": patch_inner_features,
}


@pytest.fixture
def state(model):
    """What the model is: classes, attributes, weights."""

    def read():
        parts = [(path, type(part), set(vars(part))) for path, part in model.named_modules()]
        return parts, {name: (id(tensor), tensor._version) for name, tensor in model.named_parameters()}

    return read


@pytest.mark.parametrize("patch", PATCHES)
def test_a_method_set_on_the_instance_is_refused_by_name(model, processor, state, patch):
    PATCHES[patch](model)
    before = state()
    with pytest.raises(AttachError, match=rf"not guarded: .* own {patch.split()[-1]}, got an attribute .* Delete"):
        attach_safety(model, processor)
    assert state() == before


@pytest.mark.parametrize("patch", PATCHES)
def test_a_method_set_on_the_instance_later_is_found_by_the_next_guarded_call(model, safety, ask, patch):
    inputs = ask(("what is this?", [1]))
    PATCHES[patch](model)
    for call in (safety.generate, safety.prepare):
        with pytest.raises(AttachError, match=f"own {patch.split()[-1]}, got an attribute"):
            call(**inputs)
    assert len(safety.generate(**inputs, **NEW, safety=False).sequences) == 1, "the base's own answer needs no guard"


def compile_inner(model):
    model.model = torch.compile(model.model, backend="eager")


def own_class(model):
    model.model.__class__ = OwnInner


def compile_language_model(model):
    model.model.language_model = torch.compile(model.model.language_model, backend="eager")


def compile_block(model):
    layers = model.model.language_model.layers
    layers[1] = torch.compile(layers[1], backend="eager")


REPLACED = {
    compile_inner: "OptimizedModule",
    own_class: "OwnInner",
    compile_language_model: "OptimizedModule",
    compile_block: r"OptimizedModule \(.*\) at layers\.1",
}


@pytest.mark.parametrize("replace", REPLACED)
def test_an_inner_model_that_cannot_be_guarded_is_refused_by_name_and_left_as_it_was(model, processor, state, replace):
    replace(model)
    before = state()
    with pytest.raises(AttachError, match=rf"model not supported: .* got {REPLACED[replace]}.* (then|before)"):
        attach_safety(model, processor)
    assert state() == before


def test_a_tower_that_is_spread_over_processes_is_refused_by_name(model, processor, state):
    from torch import distributed
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh, embeddings = DeviceMesh("cpu", [0]), model.model.vision_tower.get_input_embeddings()
        embeddings.weight = torch.nn.Parameter(distribute_tensor(embeddings.weight.detach(), mesh))
        before = state()
        with pytest.raises(AttachError, match=r"expected .*weight whole, got a part of it .* Attach before sharding"):
            attach_safety(model, processor)
        assert state() == before
    finally:
        distributed.destroy_process_group()


def test_a_compiled_tower_and_projector_are_guarded_and_left_compiled(model, processor, tiny_base, ask):
    inputs = ask(("what is this?", [1]))
    for name in ("vision_tower", "multi_modal_projector"):
        setattr(model.model, name, torch.compile(getattr(model.model, name), backend="eager"))
    kinds = [type(part) for part in model.modules()]
    safety = attach_as_trained(model, processor)
    assert safety.backbone.fingerprint() == find_backbone(tiny_base, processor).fingerprint()
    expected = tiny_base.generate(**inputs, **NEW)
    assert torch.equal(safety.generate(**inputs, **NEW, policy=flag_nothing()).sequences, expected)
    safety.detach()
    assert [type(part) for part in model.modules()] == kinds
    torch.compiler.reset()


def test_an_inner_model_replaced_later_is_found_by_the_next_guarded_call(model, safety, ask):
    compile_inner(model)
    with pytest.raises(AttachError, match="got OptimizedModule"):
        model.generate(**ask(("what is this?", [1])), **NEW)


def test_detach_puts_back_the_very_classes_it_found_or_nothing(model, safety):
    inner = model.model
    compile_inner(model)
    safety.detach()
    assert type(inner) is LlavaModel and type(model) is LlavaForConditionalGeneration and not safety.installed


def test_a_class_that_somebody_replaced_since_is_not_overwritten(model, safety):
    class Sharded(type(model.model)):
        pass

    guarded = type(model.model)
    model.model.__class__ = Sharded
    with pytest.raises(AttachError, match=r"not detached: .* got .*Sharded.* Undo what replaced it"):
        safety.detach()
    assert safety.installed and type(model.model) is Sharded
    model.model.__class__ = guarded
    safety.detach()
    assert type(model.model) is LlavaModel


def test_all_backbones_of_a_model_share_its_lock(model, processor, tiny_base):
    one, other = find_backbone(model, processor), find_backbone(model, processor)
    assert one.lock is other.lock is not find_backbone(tiny_base, processor).lock
    seen = []
    with one.lock:
        thread = threading.Thread(target=lambda: seen.append(other.lock.acquire(blocking=False)))
        thread.start()
        thread.join()
    assert seen == [False]


def test_two_attachments_cannot_override_each_other(model, processor):
    found = [find_backbone(model, processor) for _ in range(2)]  # both before anything is attached
    small, policy = GuardSettings(design=SMALL), Policy.default()
    first, second = (SafetyAttachment(one, [Guard(one, small)], policy) for one in found)
    first.install()
    for one in (first, second):
        with pytest.raises(AttachError, match="already attached"):
            one.install()
    second.detach()  # it is on no model: nothing to take off
    assert first.installed and not second.installed and type(model) is not LlavaForConditionalGeneration
    first.detach()
    second.install()
    assert second.installed and not first.installed
    detach_safety(model)
    assert type(model) is LlavaForConditionalGeneration and type(model.model) is LlavaModel


def other_tower(model):
    state = model.state_dict()
    model.load_state_dict({k: v + 0.1 * v.std() if "vision_tower" in k else v for k, v in state.items()})


def merged_tower(model):
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).merge_and_unload()


def merged_in_place(model):
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).merge_adapter()


def trained_embeddings(model):
    optimizer = torch.optim.SGD([model.get_input_embeddings().weight], lr=0.1)
    model.get_input_embeddings().weight.sum().backward()
    optimizer.step()


def other_projector(model):
    model.model.multi_modal_projector.linear_1 = copy.deepcopy(model.model.multi_modal_projector.linear_1)
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight.mul_(2)


def other_language_model(model):
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.up_proj.weight.mul_(2)


CHANGES = [other_tower, merged_tower, merged_in_place, trained_embeddings, other_projector, other_language_model]


@pytest.mark.parametrize("change", CHANGES)
def test_a_base_changed_under_an_attachment_is_neither_judged_with_nor_saved(
    model, safety, ask, make_image, change, tmp_path
):
    inputs = ask(("what is this?", [1]))
    change(model)
    expected = copy.deepcopy(safety.backbone.base_generate(**inputs, **NEW))
    for call in (
        lambda: model.generate(**inputs, **NEW),
        lambda: safety.prepare(**inputs),
        lambda: safety.classify(make_image(1)),
        lambda: safety.save_pretrained(tmp_path / "adapter"),
    ):
        with pytest.raises(AttachError, match=r"base changed: .* Detach and attach anew"):
            call()
    assert not (tmp_path / "adapter").exists()
    assert torch.equal(model.generate(**inputs, **NEW, safety=False), expected)


def test_a_language_model_counts_only_for_a_set_with_a_lora_on_it(model, processor, ask):
    safety = attach_as_trained(model, processor, config=SMALL.model_copy(update={"lora": None}))
    other_language_model(model)
    assert safety.generate(**ask(("what is this?", [1])), **NEW).verdicts[0] is not None


def moved(model):
    model.double().float()


def loaded_again(model):
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def unused_layer(model):
    with torch.no_grad():
        used_layers(model.model.vision_tower, 0)[0][1].mlp.fc1.weight.add_(1)


@pytest.mark.parametrize("change", [moved, loaded_again, unused_layer])
def test_what_computes_the_same_is_no_other_base(model, safety, ask, change, tmp_path):
    change(model)
    assert safety.generate(**ask(("what is this?", [1])), **NEW).verdicts[0] is not None
    safety.save_pretrained(tmp_path / "adapter")


def test_a_base_that_was_put_back_is_judged_with_again(model, safety, ask):
    inputs, before = ask(("what is this?", [1])), copy.deepcopy(model.state_dict())
    other_tower(model)
    with pytest.raises(AttachError, match="base changed"):
        safety.generate(**inputs, **NEW)
    model.load_state_dict(before)
    safety.generate(**inputs, **NEW)


def test_an_unchanged_base_is_not_looked_at_again(model, safety, ask, monkeypatch):
    def never(*_args, **_options):
        raise AssertionError("the weights were read")

    monkeypatch.setattr("safety_modules.backbones.identity.digests", never)
    safety.generate(**ask(("what is this?", [1])), **NEW)
    model.eval()
    model.requires_grad_(False)
    safety.generate(**ask(("what is this?", [1])), **NEW)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, copy.copy, pickle.dumps, lambda model: torch.save(model, BytesIO())],
    ids=["deepcopy", "copy", "pickle", "torch.save"],
)
def test_a_guarded_model_is_not_copied_or_pickled_unguarded(model, safety, copied, ask):
    for what in (model, model.model, safety):
        with pytest.raises(AttachError, match=r"not copied or pickled: .* Detach first"):
            copied(what)
    safety.generate(**ask(("what is this?", [1])), **NEW)
    safety.detach()
    copy.deepcopy(model)


def test_a_set_that_was_taken_off_does_not_answer(model, safety, ask, make_image):
    inputs = ask(("what is this?", [1]))
    safety.detach()
    for call in (safety.generate, safety.prepare):
        with pytest.raises(AttachError, match=r"not attached: .* attach anew"):
            call(**inputs)
    assert safety.classify(make_image(1))


def test_untrained_modules_never_guard(model, processor, tiny_base, ask, make_image, tmp_path):
    safety, inputs = attach_safety(model, processor, config=SMALL), ask(("what is this?", [1]), ("and this?", [2]))
    vision = safety.backbone.encode_images(inputs["pixel_values"]).vision
    for call in (
        lambda: model.generate(**inputs, **NEW),
        lambda: model.generate(**inputs, **NEW, safety=[False, True]),
        lambda: safety.generate(**inputs, **NEW),
        lambda: safety.prepare(**inputs),
        lambda: safety.classify(make_image(1)),
        lambda: safety.judge_features(vision),
    ):
        with pytest.raises(GuardError, match=r"expected trained safety modules, got new ones.*train_safety.*adapter="):
            call()
    with pytest.raises(AdapterError, match=r"not saved: expected trained safety modules"):
        safety.save_pretrained(tmp_path / "adapter")
    assert len(safety.classify(make_image(1), untrained=True)) == 1
    expected = tiny_base.generate(**inputs, **NEW)
    for off in (False, [False, False]):
        assert torch.equal(model.generate(**inputs, **NEW, safety=off), expected)
    with safety.disabled():
        assert torch.equal(model.generate(**inputs, **NEW), expected)
    safety.trained = True  # after a training loop of one's own
    assert safety.generate(**inputs, **NEW).verdicts[0] is not None
