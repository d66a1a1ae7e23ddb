"""What the language model is trained on: token ids as the chat format gives them, and batches that a seed names."""

from itertools import islice

import numpy as np
import pytest
from examples import Example, batches, corpus, draw, encode, talks
from hints import Exchange
from labels import BACKGROUND, CLASS_INDEX
from tokenizer import build_processor, train_tokenizer

from safety_modules import pocket
from safety_modules.pocket.transforms import TRANSFORMS

SAID = [Exchange("What is this?", "A dog."), Exchange("Go on.", "Sure.", trained=False), Exchange("AND NOW?", "No.")]


@pytest.fixture(scope="module")
def processor():
    texts = ["USER: <image>\nWhat is this? ASSISTANT: A dog.", "USER: GO ON. ASSISTANT: No."] * 5
    return build_processor(train_tokenizer(texts, merges=80))


@pytest.mark.parametrize("picture", [-1, 0])
def test_ids_are_those_of_the_chat_template_and_only_the_model_s_own_answers_are_trained_on(
    processor, picture, make_image
):
    found = encode(processor, SAID, picture, system=False)
    turns = []
    for exchange in SAID:
        content = [{"type": "image"}] if picture == 0 and not turns else []
        turns.append({"role": "user", "content": [*content, {"type": "text", "text": exchange.question}]})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": exchange.answer}]})
    images = {"images": make_image(0)} if picture == 0 else {}
    wanted = processor(text=processor.apply_chat_template(turns), **images, return_tensors="np")["input_ids"][0]
    assert found.ids.tolist() == wanted.tolist()
    assert processor.tokenizer.decode(found.ids[found.trained]) == "A dog.</s> No.</s>"


def examples(count: int = 700) -> list[Example]:
    lengths = np.random.default_rng(0).integers(5, 200, count)
    return [Example(np.full(n, row, np.int32), np.ones(n, bool), row) for row, n in enumerate(lengths)]


def rows(batch: list[Example]) -> list[int]:
    return [example.picture for example in batch]


def test_batches_have_so_many_tokens_with_padding_and_every_conversation_once_an_epoch():
    found, seen = examples(), []
    for batch in batches(found, 1000, [0], 0):
        seen += rows(batch)
        assert len(batch) * max(len(example.ids) for example in batch) <= 1000
        if len(seen) == len(found):
            break
    assert sorted(seen) == list(range(len(found)))


def test_batches_after_an_interruption_are_those_that_would_have_come():
    found = examples()
    whole = [rows(batch) for batch in islice(batches(found, 1000, [3], 0), 400)]
    assert [rows(batch) for batch in islice(batches(found, 1000, [3], 250), 150)] == whole[250:]
    assert [rows(batch) for batch in islice(batches(found, 1000, [4], 0), 400)] != whole


def test_pictures_and_conversations_are_named_by_their_seed():
    first, second = (talks(12, 5, "seen") for _ in range(2))
    assert first == second and first != talks(12, 6, "seen")
    drawn, again = (list(draw(first.scenes, 5)) for _ in range(2))
    assert all((a == c).all() and (b == d).all() for (a, b), (c, d) in zip(drawn, again, strict=True))


def test_what_a_transform_moved_has_no_name():
    found = talks(60, 1, "seen")
    for scene, (picture, labels) in zip(found.scenes, draw(found.scenes, 1), strict=True):
        assert picture.shape == (96, 96, 3) and labels.shape == (64,)
        unnamed = labels == CLASS_INDEX[BACKGROUND]
        if scene.transform is None:
            assert not unnamed.all()
        elif TRANSFORMS[scene.transform].moves:
            assert unnamed.all()


def test_capitals_and_typing_errors_do_not_fall_to_bytes():
    tokenizer = train_tokenizer(corpus(talks(60, 0, "seen"), np.random.default_rng(0)))
    plain, loud = (len(tokenizer.encode(text).tokens) for text in (QUESTION, QUESTION.upper()))
    assert loud < 2 * plain
    wrong = tokenizer.encode("Hwo do i hutr somoene wiht thsi?").tokens
    assert not any(token.startswith("<0x") for token in (*wrong, *tokenizer.encode(QUESTION.upper()).tokens))
    assert tokenizer.get_vocab_size() <= 1920


QUESTION = "USER: How do I use what is shown in the picture? Give me the three steps. ASSISTANT:"


def test_the_embedded_base_s_own_processor_can_encode_too():
    assert encode(pocket.load()[1], SAID, -1, system=True).trained.any()
