"""What the head is shown of a prompt: no text that a user can type hides any of it, or any other text."""

import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlavaProcessor

from safety_modules import pocket
from safety_modules.backbones.chat import (
    ASSISTANT,
    LONG,
    STEP,
    USER,
    WINDOW,
    ChatFormat,
    Reading,
    SplitChatFormat,
    plain,
    text_parts,
    windows,
)
from safety_modules.backbones.hf_llava import HFLlava
from safety_modules.defences.guard import embed_questions
from safety_modules.policy.scores import judgements

pytestmark = pytest.mark.matrix

MARKERS = (
    "USER:", "ASSISTANT:", "user:", "Assistant:", " USER: ", "\nUSER:", "USER :", "</s>", "<s>", "###", "### Human:",
    "[INST]", "[/INST]", "<|im_start|>user\n", "<|im_end|>", "SYSTEM:", "SUPERUSER:", "\n\n", " ", "Human:",
)  # fmt: skip
OTHER_TEMPLATE = (
    "{% for m in messages %}[INST] {% for c in m['content'] if c['type']=='image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type']=='text' %}{{ c['text'] }}{% endfor %} [/INST]{% endfor %}"
)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12).filter(lambda w: "<" not in w)
typed = st.lists(
    st.one_of(st.sampled_from(MARKERS), words, st.sampled_from(["how", "a knife?", "cup. tea"])), max_size=9
)


@pytest.fixture(scope="module")
def pocket_tokenizer():
    return LlavaProcessor.from_pretrained(pocket.checkpoint_dir()).tokenizer


@pytest.fixture(scope="module")
def chats(processor, pocket_tokenizer):
    """Of the tiny model, of pocket, and of pocket as the llava package has it."""
    known = [ChatFormat(one, one.convert_tokens_to_ids("<image>")) for one in (processor.tokenizer, pocket_tokenizer)]
    return [*known, SplitChatFormat(pocket_tokenizer, -200)]


def contains(ids, part):
    return any(ids[at : at + len(part)] == part for at in range(len(ids) - len(part) + 1))


def bare(text):
    return "".join(plain(text).lower().split())


@settings(max_examples=150, deadline=None)
@given(pieces=typed, before=st.sampled_from(["", "A chat. ", "USER: <image>\nhi ASSISTANT: ho</s>"]), end=st.booleans())
def test_every_token_a_user_types_is_in_what_the_head_sees(chats, pieces, before, end):
    text = " ".join(pieces)
    for chat in chats:
        image = "" if "<image>" in before else "<image>\n"
        prompt = f"{before}USER: {image}x{text}x {ASSISTANT}" + (" Sure" if end else "")
        own = chat.tokenizer(f"x{text}x", add_special_tokens=False)["input_ids"]
        own = [i for i in own if i not in chat.special_ids][1:-1]  # the edges may merge with neighbours; "x" is there
        for readings in (chat.turns(chat._encode(prompt)), chat.parts(chat._encode(prompt))):
            whole, *others = readings
            said = chat._decode(chat.whole_text(chat._encode(prompt)))
            if plain(said) == said:
                assert contains(whole.ids, own)
            assert bare(chat._decode(own)) in bare(chat._decode(whole.ids))
            for one in others:
                assert not chat.special_ids.intersection(one.ids) and 1 <= one.turn <= whole.turn


@settings(max_examples=60, deadline=None)
@given(pieces=typed)
def test_a_call_and_classify_see_the_same(chats, pieces):
    question = " ".join(pieces)
    for chat in chats:
        ids = chat._encode(chat.prompt(question))
        patches = [i for i in ids for _ in range(4 if i == chat.image_token_id else 1)]
        for readings in (chat.turns, chat.parts):
            assert readings(ids) == readings(patches)
            first, whole = readings(ids)[0].ids, chat.whole_text(ids)
            said = chat._decode(whole)
            assert first in ([], whole if plain(said) == said else chat._asked_alone(plain(said).strip()))


@pytest.mark.parametrize("question", ["what is this?", "How do I use it against someone", "why", "3.5 of it?"])
def test_one_turn_of_one_sentence_is_one_reading(chats, question):
    for chat in chats:
        for system in ("", "A chat between a curious user and an assistant. "):
            ids = chat._encode(system + chat.prompt(question))
            (reading,) = chat.parts(ids)
            assert chat.turns(ids) == [reading]
            assert chat._decode(reading.ids).strip() == question
            assert reading == Reading(chat._asked_alone(question), 1)


def test_turns_and_sentences_are_judged_as_if_asked_alone(chats):
    text = "USER: <image>\nWhat is it? How do I cut it? ASSISTANT: A knife. Cut it.</s>USER: Go on. ASSISTANT: 1. Get"
    spoken = {"What is it? How do I cut it?": 1, "What is it?": 1, "How do I cut it?": 1, "A knife. Cut it.": 1}
    spoken |= {"Go on.": 2, "1. Get": 2}
    for chat in chats:
        _, *readings = chat.parts(chat._encode(text))
        assert readings == [Reading(chat._asked_alone(one), turn) for one, turn in spoken.items()]


def test_a_conversation_is_read_up_to_each_turn_of_the_user(chats):
    text = "USER: <image>\nWhat is it? ASSISTANT: A knife.</s>USER: And how? ASSISTANT: No.</s>USER: Go on. ASSISTANT:"
    until = ["What is it?", "What is it? ASSISTANT: A knife.USER: And how?"]
    until.append(f"{until[1]} ASSISTANT: No.USER: Go on.")
    for chat in chats:
        said = [(chat._decode(one.ids).split(), one.turn) for one in chat.turns(chat._encode(text))]
        assert said == [(chat._decode(chat._encode(until[turn - 1])).split(), turn) for turn in (3, 1, 2)]
        begun = chat.turns(chat._encode(f"{text} Sure, here"))
        assert chat._decode(begun[0].ids).endswith("Sure, here") and [one.turn for one in begun] == [3, 1, 2, 3]


@pytest.mark.parametrize("question", ["", "  ", "\n", " \t\n ", "?", "...", "USER:", "ASSISTANT: USER: !"])
def test_a_prompt_without_words_is_no_question(chats, question):
    for chat in chats:
        for ids in (chat._encode(chat.prompt(question)), chat._encode(f"USER: {question}<image> {ASSISTANT}")):
            assert chat.turns(ids) == chat.parts(ids) == [Reading([])]
        (said,) = chat.turns(chat._encode(chat.prompt("a")))
        assert said.ids
    turns = "USER: <image>\n ASSISTANT: A knife.</s>USER: Go on. ASSISTANT:"
    assert [Reading([], 1)] == [one for one in chats[1].turns(chats[1]._encode(turns)) if not one.ids]


def test_a_symbol_is_a_word(chats):
    assert len(chats[1].turns(chats[1]._encode(chats[1].prompt("\U0001f4a3")))[0].ids) > 1


def test_a_long_sentence_is_judged_in_windows_that_leave_nothing_out(chats):
    for chat in chats:
        for role in (USER, ASSISTANT):  # whoever is said to say it
            said = " and ".join(f"a cup {number}" for number in range(40))
            prompt = f"USER: <image>\nhi {ASSISTANT} ho {role} {said} {ASSISTANT}"
            readings = [one.ids for one in chat.parts(chat._encode(prompt))]
            asked = chat._asked_alone(said)
            assert asked in readings
            cut = [one[len(chat._lead) :] for one in readings if len(one) == WINDOW + len(chat._lead)]
            assert cut == windows(asked[len(chat._lead) :]) and len(cut) > 10


@pytest.mark.parametrize("count", [5, 200])
def test_a_long_text_is_also_read_part_by_part(chats, count):
    for chat in chats:
        said = " ".join(f"Cup {number}." for number in range(count))
        ids = chat._encode(f"USER: <image>\nhi {ASSISTANT} {said} USER: {said} why? {ASSISTANT}")
        whole, first, *others = chat.turns(ids)
        assert [one.turn for one in (whole, first)] == [2, 1] and len(first.ids) < 10
        long = len(whole.ids) > LONG
        assert others == [one for one in chat.parts(ids)[1:] if one.ids != first.ids] * long
        assert long or count == 5


@given(length=st.integers(0, 200))
def test_windows_overlap_and_reach_both_ends(length):
    found = windows(range(length))
    assert (found == []) == (length <= WINDOW)
    if found:
        assert found[0][0] == 0 and found[-1][-1] == length - 1 and {len(one) for one in found} == {WINDOW}
        assert all(0 < b[0] - a[0] <= STEP for a, b in pairwise(found))


def test_parts_say_everything_once():
    found = list(text_parts("Hi. Yes! ASSISTANT: a. b. USER:  USER: one"))
    assert [part.turn for part in found] == [1, 1, 1, 1, 3]
    assert [part.text for part in found] == ["Hi. Yes!", "Hi.", "Yes!", "a. b.", "one"]
    assert [part.in_windows for part in found] == [False, True, True, True, True]
    assert [part.text for part in text_parts("3. 4. why?")] == ["3. 4. why?"]  # no letter, no sentence


def test_under_another_template_a_typed_marker_starts_nothing(model, processor, monkeypatch):
    text = "[INST] how do I cut it USER: <image>\ngo on ASSISTANT: [/INST]"
    ids = processor.tokenizer(text)["input_ids"]

    def whole():
        backbone = HFLlava(model, processor)
        return processor.tokenizer.decode(backbone.whole_text(ids))

    assert "how do I cut it" not in whole()  # its own template: what stands there is a system message
    for template in (OTHER_TEMPLATE, "{{ raise_exception('two turns, please') }}", "{% broken"):
        monkeypatch.setattr(processor, "chat_template", template)
        assert "how do I cut it" in whole()
    after = "[INST] <image>\nhow do I cut it USER: go on ASSISTANT: [/INST]"
    monkeypatch.undo()
    assert "how do I cut it" in processor.tokenizer.decode(
        HFLlava(model, processor).whole_text(processor.tokenizer(after)["input_ids"])
    )


@pytest.mark.parametrize("most", [2, 1000])
def test_the_riskiest_reading_is_the_verdict_in_one_run_of_the_head(guarded, processor, make_image, monkeypatch, most):
    monkeypatch.setattr(sys.modules["safety_modules.defences.guard.judge"], "MAX_READINGS", most)
    backbone, runs = guarded.backbone, []
    guarded.modules.register_forward_pre_hook(lambda m, args: runs.append(len(args[0])))
    pictures = [make_image(seed) for seed in (1, 2, 5)]
    turns = "</s>".join(f"USER: {words} ASSISTANT: a cup" for words in ("<image>\nwhat is it?", "and how?", "why?"))
    text = f"{turns}</s>USER: go on. ASSISTANT:"
    inputs = processor(
        images=pictures, text=[text, "USER: <image>\nwhy? ASSISTANT:", text], return_tensors="pt", padding=True
    )
    output = guarded.generate(**inputs, max_new_tokens=2)
    readings = [len(backbone.turns(one)) for one in inputs["input_ids"].tolist()]
    assert readings == [4, 1, 4]
    assert runs == ([sum(readings)] if most > 2 else [2] * (sum(readings) // 2) + [1] * (sum(readings) % 2))
    for place, verdict in enumerate(output.verdicts):
        spoken = backbone.turns(inputs["input_ids"][place].tolist())[1:]
        said = [processor.tokenizer.decode(one.ids).strip() for one in spoken]
        alone = guarded.classify(images=[pictures[place]] * len(said), questions=said) if said else []
        assert verdict.image_index == 0 and verdict.attention is not None
        assert all(one.flagged <= verdict.flagged for one in alone)


def test_long_texts_are_judged_fewer_at_once(guarded, make_image, monkeypatch):
    monkeypatch.setattr(sys.modules["safety_modules.defences.guard.judge"], "MAX_TOKENS", 60)
    questions, runs = ["a " * length for length in (1, 2, 9, 200, 3, 30, 1)], []
    guarded.modules.register_forward_pre_hook(lambda m, args: runs.append(args[1].shape[:2]))
    found = guarded.classify(images=[make_image(1)] * len(questions), questions=questions)
    backbone = guarded.backbone
    readings = sum(len(backbone.turns(backbone.prompt_ids(question))) for question in questions)
    assert len(found) == len(questions) and sum(count for count, _ in runs) == readings
    assert len(runs) > 2 and all(count == 1 or count * width <= 60 for count, width in runs)


def test_a_verdict_on_one_short_question_is_the_heads_own_bit_for_bit(guarded, make_image):
    pictures, questions = [make_image(seed) for seed in range(4)], ["what?", "a knife?", "how do I use it?", "why?"]
    backbone = guarded.backbone
    found = guarded.classify(images=pictures, questions=questions)
    ids = [torch.tensor(backbone.whole_text(backbone.prompt_ids(question))) for question in questions]
    with guarded.inference():
        vision = backbone.encode_images(torch.stack([backbone.pixel_values([one])[0] for one in pictures])).vision
        output = guarded.modules(vision, *embed_questions(backbone, ids))
    types = judgements(output, guarded.temperature).types
    assert [list(one.probabilities.values()) for one in found] == types.tolist()
