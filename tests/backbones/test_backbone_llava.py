"""The original llava package: the same weights give the same verdicts and answers, with the same adapter file.

Run where it is installed (`make test` does so, see docs/bases.md).
"""

import copy

import pytest
import torch
from defence_cases import EVERY_ONE, put_on
from guard_cases import attach_as_trained
from guard_policies import flag_everything, flag_nothing
from transformers import GenerationConfig

from safety_modules import pocket
from safety_modules.attach import attach_safety
from safety_modules.defences.guard import Sample, Steer, build_inputs, judge, lm_forward
from safety_modules.errors import AdapterError, AttachError, GuardError
from safety_modules.policy import Policy

pytest.importorskip("llava")
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava_layout import in_the_packages_words, to_package, to_package_inputs

OPTIONS = {"max_new_tokens": 6, "do_sample": False}
ROWS = [("what is this?", [1]), ("how do I use what is shown here?", [5]), ("tell me", []), ("these two?", [6, 2])]


@pytest.fixture(scope="module")
def converted(tiny_base, processor, tmp_path_factory):
    """Do not attach to this one: take `package`, or compare with it."""
    return to_package(tiny_base, processor, tmp_path_factory.mktemp("tower"))


@pytest.fixture(scope="module")
def answer_of(converted):
    """What the package answers without safety."""

    def answer(model=converted, **inputs):
        with in_the_packages_words():
            return model.generate(**inputs)

    return answer


@pytest.fixture
def package(converted):
    return copy.deepcopy(converted)


@pytest.fixture
def ask_package(ask, tiny_base):
    return lambda *rows: to_package_inputs(ask(*rows), tiny_base.config.image_token_id, 16)


@pytest.fixture
def folder(safety, tmp_path):
    """An adapter made on the transformers model."""
    return safety.save_pretrained(tmp_path / "adapter", dtype="float32")


def new_tokens(sequences, inputs):
    return sequences[:, inputs["input_ids"].shape[1] :]


def test_same_weights_have_the_same_sizes_and_fingerprint(package, safety, processor):
    backbone = attach_safety(package, processor.tokenizer).backbone
    assert backbone.sizes == safety.backbone.sizes
    assert backbone.fingerprint() == safety.backbone.fingerprint()
    assert backbone.pixel_settings() == safety.backbone.pixel_settings()


def test_both_packages_answer_and_judge_alike_with_one_adapter_file(
    package, safety, folder, processor, ask, ask_package, make_image
):
    guard = attach_safety(package, processor.tokenizer, adapter=folder)
    inputs, translated = ask(*ROWS), ask_package(*ROWS)
    for policy in (flag_everything(), flag_everything("refuse"), flag_nothing()):
        options = {**OPTIONS, "policy": policy, "return_dict_in_generate": True}
        expected = safety.backbone.model.generate(**inputs, **options)
        got = package.generate(**translated, **options)
        assert torch.equal(got.sequences, new_tokens(expected.sequences, inputs))
        for mine, theirs in zip(got.verdicts, expected.verdicts, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or mine.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)
    pictures = [make_image(1), make_image(2)]
    for mine, theirs in zip(guard.classify(pictures), safety.classify(pictures), strict=True):
        assert mine.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)


def test_both_packages_take_back_the_same_shift_with_one_adapter_file(
    package, model, processor, ask, ask_package, tmp_path
):
    theirs = attach_safety(model, processor, defence="cmrm")
    attach_safety(package, processor.tokenizer, adapter=theirs.save_pretrained(tmp_path / "a", dtype="float32"))
    inputs = ask(*ROWS)
    expected = new_tokens(model.generate(**inputs, **OPTIONS), inputs)
    assert torch.equal(package.generate(**ask_package(*ROWS), **OPTIONS), expected)


@pytest.mark.parametrize("names", EVERY_ONE, ids="+".join)
def test_every_defence_acts_and_off_is_the_package_bit_for_bit(package, answer_of, processor, ask_package, names):
    inputs, details = ask_package(*ROWS), {"output_scores": True, "return_dict_in_generate": True}
    expected = answer_of(**inputs, **OPTIONS, **details)
    if "tga-pooled" in names:
        with pytest.raises(AttachError, match="tga not attached: expected a projector of the linears linear_1"):
            put_on(package, processor.tokenizer, names)
        return
    safety = put_on(package, processor.tokenizer, names)
    if "ecso" not in names:  # which says yes to nothing here, and gives ids alone
        found = package.generate(**inputs, **OPTIONS, **details)
        assert found.sequences.tolist() != expected.sequences.tolist() or not torch.equal(
            found.scores[0], expected.scores[0]
        )
    off = package.generate(**inputs, **OPTIONS, **details, safety=False)
    assert torch.equal(off.sequences, expected.sequences)
    assert all(torch.equal(a, b) for a, b in zip(off.scores, expected.scores, strict=True))
    safety.detach()
    assert torch.equal(answer_of(package, **inputs, **OPTIONS), expected.sequences)


def test_both_packages_have_one_class_token_and_one_digest_of_the_whole_tower(package, safety, processor, make_image):
    other = attach_safety(package, processor.tokenizer).backbone
    assert other.tower_digest() == safety.backbone.tower_digest()
    mine, theirs = (
        backbone.encode_with_class(backbone.pixel_values([make_image(1), make_image(2)]))
        for backbone in (other, safety.backbone)
    )
    torch.testing.assert_close(mine.vision, theirs.vision)
    assert mine.vision.shape[1] == other.sizes.num_patches + 1
    plain = safety.backbone.encode_images(safety.backbone.pixel_values([make_image(1), make_image(2)]))
    assert torch.equal(theirs.vision[:, 1:], plain.vision)
    assert all(torch.equal(a, b) for a, b in zip(theirs.projected, plain.projected, strict=True))


def test_clean_and_switched_off_answers_are_bit_identical(package, answer_of, processor, ask_package):
    inputs = ask_package(*ROWS)
    details = {**OPTIONS, "output_scores": True, "return_dict_in_generate": True}
    expected = answer_of(**inputs, **details)
    safety = attach_as_trained(package, processor.tokenizer)
    for call in ({"safety": False}, {"policy": flag_nothing()}):
        got = package.generate(**inputs, **details, **call)
        assert torch.equal(got.sequences, expected.sequences)
        assert all(torch.equal(a, b) for a, b in zip(got.scores, expected.scores, strict=True))
    alone = ask_package(ROWS[0])
    del alone["attention_mask"]  # as the package's own command line calls it
    assert torch.equal(package.generate(**alone, **OPTIONS, safety=False), answer_of(**alone, **OPTIONS))
    mixed = package.generate(**inputs, **OPTIONS, policy=flag_everything(), safety=[False, False, True, True])
    part = ask_package(*ROWS[:3])
    assert torch.equal(mixed[:3], answer_of(**part, **OPTIONS))
    assert safety.enabled


def test_vision_tower_runs_once(package, processor, ask_package):
    runs = []
    package.get_vision_tower().vision_tower.register_forward_pre_hook(lambda *_: runs.append(1))
    attach_as_trained(package, processor.tokenizer)
    package.generate(**ask_package(*ROWS), **OPTIONS, policy=flag_everything(), safety=[True, False, True, True])
    assert runs == [1]


def test_beams_and_several_answers(package, safety, folder, processor, ask, ask_package):
    attach_safety(package, processor.tokenizer, adapter=folder)
    inputs = ask(*ROWS)
    for options in ({"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}):
        options |= {**OPTIONS, "policy": flag_everything()}
        expected = safety.backbone.model.generate(**inputs, **options)
        got = package.generate(**ask_package(*ROWS), **options)
        assert torch.equal(got, new_tokens(expected, inputs))


def test_allowed_tokens_see_the_callers_rows_whoever_asks_for_several_answers(
    package, answer_of, processor, ask_package
):
    attach_as_trained(package, processor.tokenizer).guard.mode = "always"
    inputs, several = ask_package(*ROWS), GenerationConfig(num_return_sequences=2, do_sample=True, max_new_tokens=2)

    def rows_seen(answer, **options):
        rows = set()
        allow = lambda row, ids: (rows.add(row), list(range(20)))[1]  # noqa: E731
        answer(**inputs, generation_config=several, prefix_allowed_tokens_fn=allow, **options)
        return rows

    expected = rows_seen(answer_of)
    assert len(expected) in (len(ROWS), 2 * len(ROWS))  # transformers counts prompts from 5.24 on
    assert rows_seen(package.generate, policy=flag_nothing()) == expected


def test_detached_package_model_is_bit_identical(package, converted, answer_of, processor, ask_package):
    inputs = ask_package(*ROWS)
    attributes, grads = set(vars(package)), [parameter.requires_grad for parameter in package.parameters()]
    modules = [(name, type(part), part.training) for name, part in package.named_modules()]
    safety = attach_as_trained(package, processor.tokenizer)
    with pytest.raises(AttachError, match="already attached"):
        attach_safety(package, processor.tokenizer)
    package.generate(**inputs, **OPTIONS, policy=flag_everything())
    safety.detach()
    assert type(package) is LlavaLlamaForCausalLM and set(vars(package)) == attributes
    assert [(name, type(part), part.training) for name, part in package.named_modules()] == modules
    assert [parameter.requires_grad for parameter in package.parameters()] == grads
    state = package.state_dict()
    assert list(state) == list(converted.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in converted.state_dict().items())
    assert torch.equal(answer_of(package, **inputs, **OPTIONS), answer_of(**inputs, **OPTIONS))


def test_training_sees_the_same_logits_as_on_transformers(package, safety, folder, processor, make_image):
    guard = attach_safety(package, processor.tokenizer, adapter=folder)
    found = []
    for one in (guard, safety):
        backbone = one.backbone
        with torch.no_grad():
            projected = backbone.encode_images(backbone.pixel_values([make_image(1)])).projected
        ids = safety.backbone.prompt_ids("what is this?")
        ids = [backbone.image_token_id if i == safety.backbone.image_token_id else i for i in ids]
        sample = Sample(ids, projected, Steer((True,), "Careful."), "a cup")
        inputs = build_inputs(backbone, one.modules.lm_tokens(), [sample, Sample([1, 7, 8], answer="a")])
        with one.lora.mounted():  # as the trainer calls it
            output = lm_forward(backbone, inputs._replace(labels=None), logits_to_keep=3, use_cache=False)
        found.append(output.logits)
        torch.autograd.grad(output.logits.square().mean(), one.modules.lm_tokens.weight)
    assert found[0].shape[1] == 3 and torch.allclose(*found, atol=1e-4)


def test_what_the_package_would_do_wrongly_is_refused(package, processor, ask_package):
    attach_as_trained(package, processor.tokenizer)
    inputs = ask_package(*ROWS)
    package.config.tokenizer_padding_side = "right"
    with pytest.raises(GuardError, match="Set it to 'left'"):
        package.generate(**inputs, **OPTIONS, policy=flag_everything())
    package.generate(**inputs, **OPTIONS, safety=False)  # the base's own answer, however padded
    package.config.tokenizer_padding_side = "left"
    package.config.tokenizer_model_max_length = 20
    with pytest.raises(GuardError, match="at most 20 tokens"):
        package.generate(**inputs, **OPTIONS, policy=flag_everything())


def test_a_method_set_on_the_instance_and_a_changed_tower_are_noticed(package, processor, ask_package):
    package.encode_images = package.encode_images
    with pytest.raises(AttachError, match="own encode_images, got an attribute of this instance"):
        attach_safety(package, processor.tokenizer)
    del package.encode_images
    attach_as_trained(package, processor.tokenizer)
    with torch.no_grad():
        package.get_vision_tower().vision_tower.get_input_embeddings().weight.mul_(2)
    with pytest.raises(AttachError, match=r"base changed: .* digest"):
        package.generate(**ask_package(*ROWS), **OPTIONS)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("mm_patch_merge_type", "spatial_unpad"), ("image_aspect_ratio", "anyres"), ("mm_use_im_start_end", True)],
)
def test_other_settings_are_refused_by_name(package, processor, setting, value):
    setattr(package.config, setting, value)
    with pytest.raises(AttachError, match=f"expected {setting} .* Use a LLaVA-1.5 checkpoint"):
        attach_safety(package, processor.tokenizer)


def test_unloaded_tower_and_foreign_tokenizer_are_refused(package, processor):
    with pytest.raises(AttachError, match="processor not usable"):
        attach_safety(package, processor.image_processor)
    package.get_vision_tower().is_loaded = False
    with pytest.raises(AttachError, match="load_model"):
        attach_safety(package, processor.tokenizer)


def test_pictures_padded_to_squares_are_another_base(package, folder, processor):
    package.config.image_aspect_ratio = "pad"
    with pytest.raises(AdapterError, match="pad_to_square"):
        attach_safety(package, processor.tokenizer, adapter=folder)


@pytest.fixture(scope="module")
def pocket_pair(tmp_path_factory):
    """Pocket with its adapter, in both packages."""
    model, processor = pocket.load()
    package = to_package(model, processor, tmp_path_factory.mktemp("pocket-tower"))
    guards = (
        attach_safety(model, processor, pocket.adapter_dir()),
        attach_safety(package, processor.tokenizer, pocket.adapter_dir()),
    )
    return guards, processor


def test_prompt_ids_of_a_conversation_are_the_chat_templates_in_both_packages(pocket_pair):
    guards, processor = pocket_pair
    history = (("What is this?", "A cup."), ("And now?", "It is red."))
    said = [words for exchange in history for words in exchange] + ["Why?"]
    turns = [
        {"role": ("user", "assistant")[place % 2], "content": [{"type": "text", "text": words}]}
        for place, words in enumerate(said)
    ]
    turns[0]["content"].insert(0, {"type": "image"})
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    decode = processor.tokenizer.decode
    for guard in guards:
        ids = guard.backbone.prompt_ids("Why?", history=history)
        image = ids.index(guard.backbone.image_token_id)
        assert ids.count(guard.backbone.image_token_id) == guard.backbone.sizes.num_patches
        before, after = ids[:image], ids[image + guard.backbone.sizes.num_patches :]
        assert decode(before) + "<image>" + decode(after) == text


@pytest.mark.parametrize("question", ["", "  ", "\n", "...", "ASSISTANT:"])
def test_a_prompt_without_words_is_the_picture_alone_in_both_packages(pocket_pair, question):
    (record,) = pocket.make("dual", 1, split="validation")
    for guard in pocket_pair[0]:
        backbone = guard.backbone
        vision = backbone.encode_images(backbone.pixel_values([record.image])).vision
        prompts = (None, backbone.prompt_ids(question), backbone.prompt_ids("Why?"))
        alone, asked, other = (judge(guard.guard, vision, [prompt], guard.policy)[0] for prompt in prompts)
        assert asked == alone != other and asked.turn is None


def test_pocket_answers_questions_alike_in_both_packages(pocket_pair):
    (transformers_guard, package_guard), processor = pocket_pair
    records = [record for kind in ("attack", "benign") for record in pocket.make(kind, 4, split="validation")]
    backbone = transformers_guard.backbone
    flagged = 0
    for record in records:
        inputs = dict(
            processor(images=record.load_image(), text=pocket.prompt(processor, record.question), return_tensors="pt")
        )
        translated = to_package_inputs(inputs, backbone.image_token_id, backbone.sizes.num_patches)
        options = {"max_new_tokens": 24, "return_dict_in_generate": True, "policy": Policy.default()}
        expected = backbone.model.generate(**inputs, **options)
        got = package_guard.backbone.model.generate(**translated, **options)
        assert torch.equal(got.sequences, new_tokens(expected.sequences, inputs)), record.question
        assert got.verdicts[0].type == expected.verdicts[0].type
        flagged += expected.verdicts[0].flagged
    assert 0 < flagged < len(records)
