"""Every way of decoding means, for guarded rows, what it means for the base."""

import copy
import warnings

import pytest
import torch
import transformers
from guard_cases import CLEAN, CLEAN_IMAGES, NEW, ROWS, answers, rows_of, steered_by_hand
from transformers import CompileConfig, GenerationConfig, LlamaForCausalLM

from safety_modules.policy import Policy

pytestmark = pytest.mark.matrix

EVEN = [("what is this", [1]), ("what is that", [5]), ("what is here", [2])]
BEFORE_5_20 = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 20)


@pytest.mark.parametrize("batch_mode", ["split", "merged"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
        {"repetition_penalty": 1.3},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"max_new_tokens": None, "max_length": 70},
        pytest.param(
            {"prefill_chunk_size": 7},
            marks=pytest.mark.skipif(BEFORE_5_20, reason="chunked prefill takes images from transformers 5.20 on"),
        ),
    ],
    ids=lambda options: next(iter(options)),
)
def test_mixed_batch_equals_single_calls(guarded, model, ask, options, batch_mode):
    options = NEW | options
    inputs = ask(*EVEN)
    together = answers(model.generate(**inputs, **options, batch_mode=batch_mode), inputs)
    n = options.get("num_return_sequences", 1)
    assert len(together) == n * len(EVEN)
    for row, question in enumerate(EVEN):
        single = ask(question)
        # max_length counts padding: alone, a row has as much room with as much less of it.
        shorter = inputs["input_ids"].shape[1] - single["input_ids"].shape[1]
        here = options | ({"max_length": options["max_length"] - shorter} if "max_length" in options else {})
        alone = answers(model.generate(**single, **here), single)
        got = together[row * n : (row + 1) * n]
        assert torch.equal(got[:, : alone.shape[1]], alone), question


@pytest.mark.parametrize(
    ("rows", "clean", "clean_images"), [(EVEN, [1], [1]), (ROWS, CLEAN, CLEAN_IMAGES)], ids=["even", "mixed"]
)
def test_sampling_draws_as_the_base_for_clean_rows_then_as_the_guard_for_risky_ones(
    guarded, model, tiny_base, ask, rows, clean, clean_images
):
    inputs = ask(*rows)
    risky = [row for row in range(len(rows)) if row not in clean]
    risky_images = [image for image in range(len(inputs["pixel_values"])) if image not in clean_images]
    options = {"max_new_tokens": 6, "do_sample": True, "num_return_sequences": 3}
    torch.manual_seed(3)
    got = answers(model.generate(**inputs, **options), inputs).unflatten(0, (len(rows), 3))
    torch.manual_seed(3)
    as_base = answers(tiny_base.generate(**rows_of(inputs, clean, clean_images), **options), inputs)
    as_guard = answers(model.generate(**rows_of(inputs, risky, risky_images), **options), inputs)
    assert torch.equal(got[clean].flatten(0, 1), as_base)
    assert torch.equal(got[risky].flatten(0, 1), as_guard)
    assert len({tuple(row.tolist()) for row in got[0]}) > 1


@pytest.mark.parametrize("row", [0, 1, 3])
@pytest.mark.parametrize("helper", ["prompt lookup", "llava assistant", "text assistant"])
def test_speculation_changes_no_answer(guarded, model, tiny_base, ask, row, helper):
    inputs = ask(ROWS[row])
    if helper == "prompt lookup":
        options = {"prompt_lookup_num_tokens": 3}
    else:
        assistant = copy.deepcopy(tiny_base)
        with torch.no_grad():
            assistant.lm_head.weight[7:40] += 0.3  # agrees with the model often, not always
        if helper == "text assistant":
            config = copy.deepcopy(assistant.config.text_config)
            text = LlamaForCausalLM(config).eval()
            text.model.load_state_dict(assistant.model.language_model.state_dict())
            text.lm_head.load_state_dict(assistant.lm_head.state_dict())
            text.generation_config = assistant.generation_config
            assistant = text
        options = {"assistant_model": assistant}
    options |= {"max_new_tokens": 10, "do_sample": False}
    try:
        tiny_base.generate(**inputs, **options)
    except ValueError as error:
        pytest.skip(f"this transformers cannot help a base with this assistant: {error}")
    expected = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert torch.equal(model.generate(**inputs, **options), expected)


def test_a_static_cache_of_a_risky_row_leaves_the_bases_caches_as_long_as_they_were(guarded, model, tiny_base, ask):
    static = NEW | {"cache_implementation": "static"}
    clean, risky = ask(ROWS[1]), ask(ROWS[6])

    def notes(base):
        return {name: value for name, value in vars(base).items() if "cache" in name}

    model.generate(**risky, **static)
    assert notes(model) == notes(tiny_base) == {}
    reference = copy.deepcopy(tiny_base)
    reference.generate(**clean, **static)
    model.generate(**clean, **static)
    model.generate(**risky, **static)
    assert notes(model).keys() == notes(reference).keys() != set()
    lengths = [value for value in notes(model).values() if isinstance(value, int)]
    assert lengths == [value for value in notes(reference).values() if isinstance(value, int)]


@pytest.mark.slow
@pytest.mark.parametrize("batch_mode", ["split", "merged"])
def test_compiled_decoding_follows_lora_in_and_out(guarded, model, tiny_base, ask, batch_mode):
    torch.compiler.reset()
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    compiled = NEW | {"cache_implementation": "static", "compile_config": config, "batch_mode": batch_mode}
    clean, risky, mixed = ask(EVEN[1]), ask(EVEN[0]), ask(*EVEN)
    expected = [model.generate(**inputs, **NEW) for inputs in (risky, clean, mixed)]
    for _ in range(2):
        for inputs, answer in zip((risky, clean, mixed), expected, strict=True):
            assert torch.equal(model.generate(**inputs, **compiled), answer)
        off = model.generate(**risky, **compiled, safety=False)
        assert torch.equal(off, tiny_base.generate(**risky, **NEW))
    assert hasattr(model, "_compiled_call")  # it did compile
    torch.compiler.reset()


@pytest.mark.parametrize("batch_mode", ["split", "merged"])
@pytest.mark.parametrize(
    "limit",
    [
        {"max_new_tokens": 5},
        {"max_length": 50},
        {"generation_config": GenerationConfig(max_length=50, do_sample=False)},
        {"generation_config": GenerationConfig(max_new_tokens=5, do_sample=False)},
        {"max_length": 50, "min_length": 50},
        {},
    ],
)
def test_lengths_are_counted_from_the_callers_prompt(guarded, model, tiny_base, ask, limit, batch_mode):
    inputs = ask(("what is this?", [1]), ("what is this?", [5]))
    base, own = copy.deepcopy(tiny_base), {"min_length": limit.get("min_length")}
    own |= {} if "generation_config" in limit else {"eos_token_id": 399}
    for one in (base, model):  # the base's own: a call that set them would get the policy's text
        one.generation_config.update(**own)
    limit = {name: value for name, value in limit.items() if name not in own}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = model.generate(**inputs, **limit, batch_mode=batch_mode)
        assert got.shape == base.generate(**inputs, **limit).shape


def test_stop_strings_end_a_steered_answer_where_they_first_appear(guarded, model, processor, ask):
    inputs, tokenizer = ask(ROWS[0]), processor.tokenizer
    options = {"max_new_tokens": 12, "do_sample": False}
    full = answers(model.generate(**inputs, **options), inputs)[0]
    pieces = [tokenizer.decode(full[: end + 1]) for end in range(len(full))]
    at = next(
        end for end in range(3, len(full)) if pieces[end][-2:].strip() and pieces[end][-2:] not in pieces[end - 1]
    )
    stop = {"stop_strings": [pieces[at][-2:]], "tokenizer": tokenizer}
    got = answers(model.generate(**inputs, **options, **stop), inputs)[0]
    assert torch.equal(got, full[: at + 1])
    hint = Policy.default().hint("illegal", "high")
    expected = steered_by_hand(guarded, inputs["input_ids"][0], inputs["pixel_values"], [True], hint, **options, **stop)
    assert torch.equal(got, expected)


def test_stop_strings_end_a_refusal_too(guarded, model, processor, ask):
    inputs, policy = ask(ROWS[0], ROWS[1]), Policy.default().with_rule("illegal", action="refuse")
    for stop in ("sorry", [" help", "sorry"]):
        got = model.generate(
            **inputs, max_new_tokens=30, policy=policy, stop_strings=stop, tokenizer=processor.tokenizer
        )
        ids = [token for token in answers(got, inputs)[0].tolist() if token != processor.tokenizer.pad_token_id]
        assert "sorry" in processor.decode(ids) and "sorry" not in processor.decode(ids[:-1])
