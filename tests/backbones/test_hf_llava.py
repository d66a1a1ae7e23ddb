"""The backbone: what it reads from a LLaVA, the one seam, the chat format on ids."""

import copy
import json
import threading

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from safety_modules.backbones import find_backbone
from safety_modules.backbones.chat import ChatFormat
from safety_modules.errors import AttachError, PromptError

pytestmark = pytest.mark.matrix

HINT = "Note: this image carries a high risk of harm."


@pytest.fixture
def backbone(model, processor):
    backbone = find_backbone(model, processor)
    backbone.install(backbone.base_generate)
    return backbone


def test_sizes_are_read_from_the_model(backbone):
    sizes = backbone.sizes
    assert (sizes.vision_width, sizes.text_width, sizes.num_patches, sizes.grid) == (24, 32, 16, (4, 4))
    assert ("mlp.down_proj", 64, 32) in sizes.linears and len(sizes.linears) == 7


def test_features_are_the_bases_own_and_the_tower_runs_once(backbone, ask, tower_runs, tiny_base):
    pixels = ask(("a?", [1]), ("b?", [2]))["pixel_values"]
    seen = []
    tiny_base.model.multi_modal_projector.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        output = tiny_base.model.get_image_features(pixel_values=pixels)
        features = backbone.encode_images(pixels)
    assert tower_runs == [2]
    assert features.vision.shape == (2, 16, 24) and torch.equal(features.vision, seen[0])
    expected = list(getattr(output, "pooler_output", output))
    assert all(torch.equal(a, b) for a, b in zip(features.projected, expected, strict=True))
    assert not features.vision.requires_grad


def test_planning_the_own_features_is_bit_identical_without_the_tower(backbone, ask, tower_runs, tiny_base):
    inputs = ask(("a?", [1]), ("what else is there?", [2]))
    planned = backbone.encode_images(inputs["pixel_values"]).projected
    tower_runs.clear()
    with torch.no_grad(), backbone.planned(planned):
        logits = backbone.model(**inputs).logits
    with torch.no_grad():
        assert torch.equal(logits, tiny_base(**inputs).logits)
    assert tower_runs == []


def test_plan_ends_with_its_block_and_stays_in_its_thread(backbone, ask, tower_runs):
    inputs = ask(("a?", [1]))
    planned = [torch.zeros_like(f) for f in backbone.encode_images(inputs["pixel_values"]).projected]
    results = {}

    def run(name):
        with torch.no_grad():
            results[name] = backbone.model(**inputs).logits

    run("before")
    with pytest.raises(RuntimeError), backbone.planned(planned):
        run("planned")
        thread = threading.Thread(target=run, args=("other thread",))
        thread.start()
        thread.join()
        raise RuntimeError
    run("after")
    assert not torch.equal(results["planned"], results["before"])
    assert torch.equal(results["other thread"], results["before"])
    assert torch.equal(results["after"], results["before"])


def test_planned_rows_repeat_when_pixel_values_do(backbone):
    # What generate does before transformers 5.20 for beams: row by row, not image by image.
    a, b, c = (torch.full((2, 32), float(i)) for i in range(3))
    with backbone.planned([a, b, c], [2, 0, 1]):
        output = backbone.model.model.get_image_features(pixel_values=torch.zeros(6, 1))
    features = getattr(output, "pooler_output", output)
    assert [float(f[0, 0]) for f in features] == [0, 1, 0, 1, 2, 2]


def test_prompt_ids_equal_the_processors(backbone, ask):
    assert backbone.prompt_ids("what is this?") == ask(("what is this?", [1]))["input_ids"][0].tolist()
    assert backbone.prompt_ids("which one?", 2) == ask(("which one?", [1, 2]))["input_ids"][0].tolist()
    assert backbone.prompt_ids("tell me", 0) == ask(("tell me", []))["input_ids"][0].tolist()


def test_an_image_token_in_the_question_is_refused(backbone):
    with pytest.raises(PromptError, match="placeholders"):
        backbone.prompt_ids("what is <image> this?")


def test_hint_goes_before_the_answer_as_if_it_had_been_typed(backbone, ask):
    plain = ask(("what is this?", [1]))["input_ids"][0].tolist()
    typed = ask((f"what is this? {HINT}", [1]))["input_ids"][0].tolist()
    assert backbone.insert_hint(plain, HINT) == typed


def encode(processor, text):
    return processor.tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("USER: why?\nASSISTANT:", f"USER: why? {HINT}\nASSISTANT:"),
        ("USER: a ASSISTANT: b USER: c ASSISTANT:", f"USER: a ASSISTANT: b USER: c {HINT} ASSISTANT:"),
        ("USER: why? ASSISTANT: Sure, here", f"USER: why? {HINT} ASSISTANT:"),
        ("USER: why? ASSISTANT: ", f"USER: why? {HINT} ASSISTANT:"),
        ("USER: why? ASSISTANT: Sure. ASSISTANT: 1. Get", f"USER: why? {HINT} ASSISTANT:"),
        ("USER: why? ASSISTANT: Sure: ASSISTANT:", f"USER: why? {HINT} ASSISTANT:"),
        ("USER: a ASSISTANT: b</s>USER: c ASSISTANT: d</s>", f"USER: a ASSISTANT: b</s>USER: c {HINT} ASSISTANT:"),
        ("USER: why?ASSISTANT: Sure", f"USER: why? {HINT} ASSISTANT:"),
        ("USER: why?ASSISTANT:", f"USER: why? {HINT} ASSISTANT:"),
    ],
)
def test_hint_finds_its_place(backbone, processor, prompt, expected):
    ids = backbone.insert_hint(encode(processor, prompt), HINT)
    assert processor.tokenizer.decode(ids[1:]) == processor.tokenizer.decode(encode(processor, expected)[1:])


@pytest.mark.parametrize(
    "prompt",
    [
        "USER: why?",
        "just text",
        "USER: a ASSISTANT: b USER: c",
        "USER: why? ASSISTANT: <image> yes",
        "[INST] a [/INST]",
    ],
)
def test_no_place_for_the_hint_is_an_error(backbone, processor, prompt):
    with pytest.raises(PromptError, match="no place"):
        backbone.insert_hint(encode(processor, prompt), HINT)


@pytest.fixture(scope="module")
def merging_tokenizer():
    """BPE without a pre-tokenizer: "?" and " ASSISTANT" may become one token, as in some real tokenizers."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        special_tokens=["<unk>", "<s>", "</s>", "<image>"],
        initial_alphabet=[chr(code) for code in range(32, 127)] + ["\n"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what? ASSISTANT: yes", "why? ASSISTANT: no"] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )


def test_hint_is_found_in_the_text_where_tokens_hide_the_marker(merging_tokenizer):
    chat = ChatFormat(merging_tokenizer, merging_tokenizer.convert_tokens_to_ids("<image>"))
    text = "<s>USER: <image><image>\nwhy? ASSISTANT: no USER: what?{} ASSISTANT:"
    ids = merging_tokenizer(text.format(""), add_special_tokens=False)["input_ids"]
    marker = merging_tokenizer("ASSISTANT:", add_special_tokens=False)["input_ids"]
    assert ids[-len(marker) :] != marker  # the case this test is about
    got = chat.insert_hint(ids, HINT)
    assert merging_tokenizer.decode(got) == text.format(f" {HINT}")


@pytest.mark.parametrize(
    ("setting", "value", "got"),
    [
        ("patch_size", None, "TypeError"),
        ("num_additional_image_tokens", 0, "15"),
        ("vision_feature_select_strategy", "full", "17"),
        ("vision_feature_select_strategy", None, "17"),
    ],
)
def test_a_processor_that_counts_other_image_tokens_is_refused_at_attach(tiny_base, processor, setting, value, got):
    other = copy.copy(processor)
    setattr(other, setting, value)
    with pytest.raises(
        AttachError, match=rf"processor does not fit .* expected 16 image tokens .* got {got}.*{setting}="
    ):
        find_backbone(tiny_base, other)


def test_answer_ids_continue_the_prompt(backbone, processor):
    ids = backbone.prompt_ids("why?", 0) + backbone.answer_ids("I'm sorry.", end=False)
    assert ids == encode(processor, "USER: why? ASSISTANT: I'm sorry.")
    assert backbone.answer_ids("yes")[-1] == processor.tokenizer.eos_token_id


def test_fingerprint_knows_the_weights_but_not_their_dtype(backbone, tiny_base, processor):
    def fingerprint(model):
        return find_backbone(model, processor).fingerprint()

    own = backbone.fingerprint()
    assert json.loads(json.dumps(own)) == own
    half = copy.deepcopy(tiny_base).bfloat16()
    assert fingerprint(half) == own == fingerprint(copy.deepcopy(half).float())
    other = copy.deepcopy(tiny_base)
    with torch.no_grad():
        other.model.multi_modal_projector.linear_2.bias.add_(0.1)
    assert fingerprint(other)["digest"] != own["digest"]


def test_pixel_settings_are_plain_json(backbone):
    settings = backbone.pixel_settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["crop_size"] == {"height": 28, "width": 28} and settings["size"] == {"shortest_edge": 28}


class OtherLlava(LlavaForConditionalGeneration):
    pass


def test_other_models_are_refused_by_name(tiny_base, processor):
    text = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(AttachError, match=r"expected LlavaForConditionalGeneration .* got LlamaForCausalLM"):
        find_backbone(text, processor)
    subclass = OtherLlava(tiny_base.config)
    with pytest.raises(AttachError, match=r"got OtherLlava\. Pass the base itself"):
        find_backbone(subclass, processor)
    with pytest.raises(AttachError, match=r"got LlavaModel\. It has no language-model head"):
        find_backbone(tiny_base.model, processor)


def test_a_llava_next_with_another_familys_processor_is_refused(tiny_base, processor):
    texts, pictures = tiny_base.config.text_config, tiny_base.config.vision_config
    config = LlavaNextConfig(vision_config=pictures, text_config=texts, image_grid_pinpoints=[[28, 56]])
    config.image_token_id = tiny_base.config.image_token_id
    with pytest.raises(AttachError, match=r"expected image_grid_pinpoints \[\[28, 56\]\], got \[\]"):
        find_backbone(LlavaNextForConditionalGeneration(config), processor)


def test_unfit_processors_and_settings_are_refused(model, processor):
    with pytest.raises(AttachError, match="processor not usable"):
        find_backbone(model, processor.tokenizer)
    model.config.image_token_id += 1
    with pytest.raises(AttachError, match="does not belong"):
        find_backbone(model, processor)
    model.config.image_token_id -= 1
    model.config.vision_feature_select_strategy = "full"
    with pytest.raises(AttachError, match="class token"):
        find_backbone(model, processor)
