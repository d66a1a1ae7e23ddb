"""Prompts as people build them: by template and by hand, with and without a system prompt, image turns ago."""

import pytest
import torch
from guard_cases import NEW, answers, steered_by_hand

from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import PromptError
from safety_modules.policy import Policy
from safety_modules.policy.scores import HeadOutput

pytestmark = pytest.mark.matrix

TURNS = [("what is in this image?", "a knife"), ("really?", "a cup and a knife"), ("are you sure?", "I'm sorry.")]
LAST = "and how do I use it?"
SYSTEM = "A chat between a curious user and an assistant."


def messages(image_turn, system=False):
    found = [{"role": "system", "content": [{"type": "text", "text": SYSTEM}]}] if system else []
    for turn, (question, answer) in enumerate([*TURNS, (LAST, None)]):
        image = [{"type": "image"}] if turn == image_turn else []
        found.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        if answer is not None:
            found.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return found


def by_hand(start, between, image="<image>\n", gap=" "):
    turns = [f"USER: {image if number == 0 else ''}{q} ASSISTANT: {a}" for number, (q, a) in enumerate(TURNS)]
    return start + between.join([*turns, f"USER: {LAST}{gap}ASSISTANT:"])


PROMPTS = {
    "template, image three turns ago": lambda p: p.apply_chat_template(messages(0), add_generation_prompt=True),
    "template, image one turn ago": lambda p: p.apply_chat_template(messages(2), add_generation_prompt=True),
    "template, image now": lambda p: p.apply_chat_template(messages(3), add_generation_prompt=True),
    "template with system": lambda p: p.apply_chat_template(messages(0, system=True), add_generation_prompt=True),
    "hand": lambda p: by_hand("", " "),
    "hand with system": lambda p: by_hand(f"{SYSTEM} ", " "),
    "hand with end of sequence between turns": lambda p: by_hand(f"{SYSTEM} ", "</s>"),
    "hand with line breaks": lambda p: by_hand("", "\n", gap="\n"),
    "hand without a line break after the image": lambda p: by_hand("", " ", image="<image> "),
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_every_turn_is_judged_and_the_hint_stands_before_the_answer(
    guarded, model, tiny_base, processor, make_image, prompt
):
    text, policy = prompt(processor), Policy.default()
    inputs = processor(images=make_image(1), text=text, return_tensors="pt")
    ids = inputs["input_ids"]
    decode, backbone = processor.tokenizer.decode, guarded.backbone
    parts = [decode(one.ids).strip() for one in backbone.parts(ids[0].tolist())]
    assert {LAST, *(part for turn in TURNS for part in turn)} < set(parts)
    readings = backbone.turns(ids[0].tolist())
    turns = {one.turn: decode(one.ids) for one in reversed(readings)}  # windows come last
    assert sorted(turns) == [1, 2, 3, 4]
    for turn, said in turns.items():
        assert [words in said for words, _ in [*TURNS, (LAST, None)]] == [place < turn for place in range(4)]
        assert [words in said for _, words in TURNS] == [place + 1 < turn for place in range(3)]
    assert not any(SYSTEM in reading for reading in [*parts, *turns.values()])
    hint = policy.hint("illegal", "high")
    steered = processor.tokenizer.decode(guarded.backbone.insert_hint(ids[0].tolist(), hint))
    tail = steered[steered.rindex(LAST) :]
    assert tail.split() == f"{LAST} {hint} ASSISTANT:".split() and steered.count(hint) == 1
    output = guarded.generate(**inputs, **NEW)
    expected = steered_by_hand(guarded, ids[0], inputs["pixel_values"], [True], hint, **NEW)
    assert torch.equal(answers(output.sequences, inputs)[0], expected)
    assert output.verdicts[0].type == "illegal"
    assert not torch.equal(output.sequences, tiny_base.generate(**inputs, **NEW))


def test_images_of_several_turns_are_judged_one_by_one(guarded, processor, make_image):
    first, second = "USER: <image>\nwhat is this? ASSISTANT: a cup", "USER: <image>\nand this? ASSISTANT: a knife"
    text = f"{first} {second} USER: {LAST} ASSISTANT:"
    for images, types, driver in (((5, 1), ["clean", "illegal"], 1), ((2, 5), ["privacy", "clean"], 0)):
        inputs = processor(images=[make_image(seed) for seed in images], text=text, return_tensors="pt")
        output = guarded.generate(**inputs, **NEW)
        assert [v.type for v in output.image_verdicts[0]] == types
        assert [v.image_index for v in output.image_verdicts[0]] == [0, 1]
        assert output.verdicts[0].image_index == driver
        assert str(output.verdicts[0]).startswith(f"image {driver}: ")


class Looking(SafetyModules):
    """Modules that find a high risk where a text holds one token."""

    token: torch.Tensor  # (D,)

    def forward(self, vision, question=None, mask=None):
        found = [False] * len(vision)
        if question is not None:
            found = ((question == self.token).all(-1) & mask).any(1).tolist()
        logits = torch.tensor([[0.0] * 7, [0, 10, 0, 0, 0, 0, 0]]), torch.tensor([[10.0, 0, 0, 0], [0, 0, 0, 10]])
        types, levels = (rows[[int(one) for one in found]] for rows in logits)
        types[~torch.tensor(found), -1] = 10
        return HeadOutput(types, levels, torch.full((len(vision), 6, self.sizes.num_patches), 0.1))


@pytest.fixture
def looking(safety, processor):
    """It looks for a tilde."""
    safety.modules.__class__ = Looking
    safety.modules.token = safety.backbone.embed_text(torch.tensor([[processor.tokenizer.convert_tokens_to_ids("~")]]))[
        0, 0
    ]
    return safety


SPOKEN = {
    1: ("~", "no", "go on"),
    2: ("what is it?", "a cup", "~", "no", "go on", "no", "and now?"),
    3: ("what is it?", "a cup", "and that?", "~", "go on"),
}


@pytest.mark.parametrize("turn", SPOKEN)
def test_a_later_turn_inherits_what_was_asked_and_the_verdict_says_with_which_turn_it_came(
    looking, processor, make_image, turn
):
    said = SPOKEN[turn]
    history = tuple(zip(said[:-1:2], said[1::2], strict=True))
    prompt = looking.backbone.prompt(said[-1], 1, history)
    output = looking.generate(**processor(images=make_image(3), text=prompt, return_tensors="pt"), **NEW)
    (verdict,) = output.verdicts
    assert verdict.flagged and verdict.turn == turn == verdict.to_dict()["turn"]
    assert f", level high, turn {turn} [" in str(verdict)
    clean = looking.backbone.prompt("and now?", 1, (("what is it?", "a cup"),))
    output = looking.generate(**processor(images=make_image(3), text=clean, return_tensors="pt"), **NEW)
    assert not output.verdicts[0].flagged


def test_each_picture_is_judged_with_what_is_said_before_and_after_it(looking, processor, make_image):
    text = "USER: <image>\nwhat? ASSISTANT: a cup USER: ~ ASSISTANT: no USER: <image>\nand that? ASSISTANT:"
    inputs = processor(images=[make_image(3), make_image(4)], text=text, return_tensors="pt")
    verdicts = looking.generate(**inputs, **NEW).image_verdicts[0]
    assert [(one.image_index, one.flagged, one.turn) for one in verdicts] == [(0, True, 2), (1, True, 2)]


@pytest.mark.parametrize("question", [None, "", " ", "\n", "?"])
def test_a_question_without_words_is_the_picture_alone(safety, processor, make_image, question):
    picture, asked = make_image(3), safety.classify(make_image(3), "~")[0]
    alone, found = safety.classify(picture)[0], safety.classify(picture, question)[0]
    assert found == alone != asked and found.turn is None and asked.turn == 1
    text = safety.backbone.prompt(question or "")
    output = safety.generate(**processor(images=picture, text=text, return_tensors="pt"), **NEW)
    assert output.verdicts[0] == alone


def test_a_tokenized_template_is_the_same_call(guarded, model, processor, make_image):
    chat = messages(0)
    for part in chat[0]["content"]:
        if part["type"] == "image":
            part["image"] = make_image(1)
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    text = processor.apply_chat_template(messages(0), add_generation_prompt=True)
    same = processor(images=make_image(1), text=text, return_tensors="pt")
    assert torch.equal(model.generate(**inputs, **NEW)[0, -6:], model.generate(**same, **NEW)[0, -6:])


BEGUN = {
    "begun": "USER: <image>\nwhat is this? ASSISTANT: Sure, here is how:",
    "a space": "USER: <image>\nwhat is this? ASSISTANT: ",
    "begun with a marker": "USER: <image>\nwhat is this? ASSISTANT: Sure. ASSISTANT: 1. a knife",
    "typed into the question": "USER: <image>\nwhat is this? ASSISTANT: Sure: ASSISTANT:",
    "a whole answer": "USER: <image>\nwhat is this? ASSISTANT: a cup</s>",
}


@pytest.mark.parametrize("action", ["hint", "refuse"])
@pytest.mark.parametrize("text", BEGUN.values(), ids=BEGUN.keys())
def test_a_begun_answer_is_not_gone_on_with_where_there_is_a_risk(
    guarded, model, tiny_base, processor, make_image, text, action
):
    policy = Policy.default().with_rule("illegal", action=action)
    inputs = processor(images=make_image(1), text=text, return_tensors="pt")
    plain = processor(images=make_image(1), text="USER: <image>\nwhat is this? ASSISTANT:", return_tensors="pt")
    output = model.generate(**inputs, **NEW, policy=policy)
    width = inputs["input_ids"].shape[1]
    assert torch.equal(output[:, :width], inputs["input_ids"])
    wanted = model.generate(**plain, **NEW, policy=policy)[0, plain["input_ids"].shape[1] :]
    assert output[0, width:].tolist() == wanted.tolist()
    clean = processor(images=make_image(5), text=text, return_tensors="pt")
    assert torch.equal(model.generate(**clean, **NEW), tiny_base.generate(**clean, **NEW))


def test_a_final_message_to_go_on_with_is_a_begun_answer(guarded, processor, make_image):
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Sure, here is how:"}]},
    ]
    text = processor.apply_chat_template(chat, continue_final_message=True)
    assert text.endswith("ASSISTANT: Sure, here is how:")
    inputs = processor(images=make_image(1), text=text, return_tensors="pt")
    steered = guarded.backbone.insert_hint(inputs["input_ids"][0].tolist(), "Careful.")
    assert processor.tokenizer.decode(steered).endswith("what is this? Careful. ASSISTANT:")


@pytest.mark.parametrize(
    "text", ["<image> what is this?", "USER: <image>\nwhat is this?", "ASSISTANT: <image> yes USER: why?"]
)
def test_a_risky_prompt_without_a_place_for_the_hint_is_an_error(guarded, model, processor, make_image, text):
    inputs = processor(images=make_image(1), text=text, return_tensors="pt")
    with pytest.raises(PromptError, match="no place"):
        model.generate(**inputs, **NEW)
    clean = processor(images=make_image(5), text=text, return_tensors="pt")
    assert guarded.generate(**clean, **NEW).verdicts[0].flagged is False
