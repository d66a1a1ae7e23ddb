"""Prompts of later LLaVAs on ids: which format a chat template writes, questions, hints, several turns."""

import pytest
import tiled_bases

from safety_modules.backbones.chat import ChatFormat, Reading
from safety_modules.backbones.chat_turns import TurnFormat, turn_format
from safety_modules.errors import PromptError

pytestmark = pytest.mark.matrix

HINT = "Be careful."


@pytest.fixture(params=["qwen", "mistral"])
def made(request, processor):
    """A processor and its chat format."""
    if request.param == "qwen":
        found = tiled_bases.next_processor(tiled_bases.qwen_tokenizer(), tiled_bases.QWEN_TEMPLATE)
    else:
        found = tiled_bases.next_processor(processor.tokenizer, tiled_bases.MISTRAL_TEMPLATE)
    chat = turn_format(found, found.tokenizer.convert_tokens_to_ids("<image>"))
    assert type(chat) is TurnFormat
    return found, chat


def ids_of(processor, *turns):
    """Ids of a conversation, a picture in its first turn."""
    messages = []
    for place, (role, text) in enumerate(turns):
        content = [{"type": "image"}] * (place == 0) + [{"type": "text", "text": text}]
        messages.append({"role": role, "content": content})
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    return processor.tokenizer(text)["input_ids"], text


def test_vicunas_format_is_that_of_llava_1_5(processor):
    found = tiled_bases.next_processor(processor.tokenizer, processor.chat_template)
    assert type(turn_format(found, 4)) is ChatFormat
    found.chat_template = None
    assert type(turn_format(found, 4)) is ChatFormat


def test_a_prompt_is_the_templates(made):
    processor, chat = made
    ids, text = ids_of(processor, ("user", "what is this?"))
    assert chat.prompt("what is this?") == text
    for readings in (chat.turns(ids), chat.parts(ids)):
        assert [processor.tokenizer.decode(one.ids).strip() for one in readings] == ["what is this?"]
    turns = [("user", "what is this?"), ("assistant", "a cup"), ("user", "how do I use it?")]
    assert chat.prompt("how do I use it?", history=[("what is this?", "a cup")]) == ids_of(processor, *turns)[1]


def test_a_hint_stands_behind_the_last_question_and_leaves_the_rest(made):
    processor, chat = made
    ids, _ = ids_of(processor, ("user", "what is this?"), ("assistant", "a cup"), ("user", "how do I use it?"))
    hinted = processor.tokenizer.decode(chat.insert_hint(ids, HINT))
    assert hinted == processor.tokenizer.decode(ids).replace("how do I use it?", f"how do I use it? {HINT}")
    # What was put into the model's mouth is left out: it would go on with it.
    begun = [*ids, *chat.answer_ids("Sure, here is", end=False)]
    assert chat.insert_hint(begun, HINT) == chat.insert_hint(ids, HINT)


def test_all_turns_are_judged(made):
    processor, chat = made
    ids, _ = ids_of(processor, ("user", "what is this?"), ("assistant", "a cup"), ("user", "how do I use it?"))
    said = processor.tokenizer.decode(chat.whole_text(ids))
    assert "what is this?" in said and "a cup" in said and "how do I use it?" in said
    said = [(processor.tokenizer.decode(one.ids).strip(), one.turn) for one in chat.parts(ids)]
    assert ("how do I use it?", 2) in said
    said = [(processor.tokenizer.decode(one.ids).strip(), one.turn) for one in chat.turns(ids)]
    assert [turn for _, turn in said] == [2, 1] and said[1][0] == "what is this?"
    loud, _ = ids_of(processor, ("user", "what is this?"), ("assistant", "a cup"), ("user", "HOW do I USE it?"))
    for readings in (chat.turns, chat.parts):
        assert [one.turn for one in readings(loud)] == [one.turn for one in readings(ids)]
        assert all("USE" not in processor.tokenizer.decode(one.ids) for one in readings(loud))
    assert chat.turns(ids_of(processor, ("user", " "))[0]) == [Reading([])]


def test_an_answer_continues_the_prompt(made):
    processor, chat = made
    ids, _ = ids_of(processor, ("user", "what is this?"))
    answered = processor.tokenizer.decode([*ids, *chat.answer_ids("a cup")])
    assert answered.replace(" ", "").endswith(f"acup{processor.tokenizer.eos_token}")
    assert chat.answer_ids("a cup")[-1] == processor.tokenizer.eos_token_id


def test_prompts_without_a_place_are_refused(made):
    processor, chat = made
    for text in ("no marks", f"{chat.marks.assistant} then {chat.marks.user} who?"):
        with pytest.raises(PromptError, match="no place for the safe hint"):
            chat.insert_hint(processor.tokenizer(text)["input_ids"], HINT)
    ids, _ = ids_of(processor, ("user", "what is this?"))
    with pytest.raises(PromptError, match="expected images in the turns of the user"):
        chat.insert_hint([*ids, chat.image_token_id], HINT)
