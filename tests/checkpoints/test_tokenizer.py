"""Pocket's tokenizer and chat format."""

import pytest
from tokenizer import CHAT_TEMPLATE, build_processor, train_tokenizer
from tokenizers import Tokenizer

from safety_modules import pocket


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["USER: <image>\nWhat is here? ASSISTANT: A dog.", "Is there a dog? No."] * 5, merges=60)


@pytest.mark.parametrize(
    "text", ["USER: What is here? ASSISTANT:", "Zürich, quokka & 42€ 🙂", "two  spaces\nand a line"]
)
def test_any_text_survives_a_round_trip(tokenizer, text):
    processor = build_processor(tokenizer)
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.unk_token_id not in ids
    assert processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_punctuation_does_not_make_a_new_word(tokenizer):
    dot, question = (tokenizer.encode(f"a dog{mark}").tokens for mark in ".?")
    assert dot[:-1] == question[:-1]


def test_the_processor_asks_for_one_token_per_patch(tokenizer, make_image):
    processor = build_processor(tokenizer)
    inputs = processor(images=make_image(0), text="USER: <image>\nWhat? ASSISTANT:", return_tensors="pt")
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert int((inputs["input_ids"] == image).sum()) == 64
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}


def test_the_chat_template_is_llava_s(tokenizer):
    processor = build_processor(tokenizer)
    assert processor.chat_template == CHAT_TEMPLATE
    assert pocket.prompt(processor, "What?") == "USER: <image>\nWhat? ASSISTANT:"
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        {"role": "user", "content": "Sure?"},
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == "USER: <image>\nWhat? ASSISTANT: A dog.</s>USER: Sure? ASSISTANT:"
