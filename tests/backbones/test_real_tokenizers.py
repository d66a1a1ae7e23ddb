"""Prompt surgery on real vocabularies, Llama's and Mistral's: pocket's tokenizer, which knows whole words, is too kind.

`legacy` tokenizers put a space before every piece of text between special tokens.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from real_llava import IMAGE, PAD, load_processor, runs, small_model, tokenizer
from transformers import PreTrainedTokenizerFast

from safety_modules.backbones import find_backbone
from safety_modules.backbones.chat import ChatFormat, SplitChatFormat
from safety_modules.backbones.generation import until_stop

pytestmark = pytest.mark.matrix

HINT = "Note: this image carries a high risk of harm."
SYSTEM = "A chat between a curious user and an artificial intelligence assistant. "
REFUSAL = "I'm sorry, I can't help with that."

# As transformers' and vLLM's own tests have them for this checkpoint.
KNOWN = {
    "USER: <image>\nWhat is shown in this image? ASSISTANT:": (
        [1, 3148, 1001, 29901, 29871, IMAGE, 13, 5618, 338, 4318, 297, 445, 1967, 29973, 319, 1799, 9047, 13566, 29901]
    ),
    "USER: <image>\nWhat are these?\nASSISTANT:": (
        [1, 3148, 1001, 29901, 29871, IMAGE, 13, 5618, 526, 1438, 29973, 13, 22933, 9047, 13566, 29901]
    ),
    "USER:": [1, 3148, 1001, 29901],
    "Hello world!": [1, 15043, 3186, 29991],
}
KNOWN_LEGACY = {
    "USER: <image>\nWhat's the content of the image?\nASSISTANT:": (
        [1, 3148, 1001, 29901, 29871, IMAGE, 29871, 13, 5618, 29915, 29879, 278, 2793, 310, 278, 1967, 29973, 13, 22933,
         9047, 13566, 29901]
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def known():
    """Tokenizers by vocabulary and whether they are legacy."""
    return {
        (name, legacy): PreTrainedTokenizerFast(
            tokenizer_object=tokenizer(name, legacy),
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            extra_special_tokens={"image_token": "<image>"},
        )
        for name in ("llama", "mistral")
        for legacy in (False, True)
    }


@pytest.fixture(scope="module", params=[(name, legacy) for name in ("llama", "mistral") for legacy in (False, True)])
def chat(known, request):
    return ChatFormat(known[request.param], IMAGE)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """As users load it."""
    return load_processor(tmp_path_factory.mktemp("processor"), image_size=56)


def encode(chat, text, patches=1):
    """With the token that begins a text, and each image as so many tokens."""
    return [i for i in chat.tokenizer(text)["input_ids"] for _ in range(patches if i == IMAGE else 1)]


def test_known_prompts_have_their_known_ids(known, processor):
    for text, ids in KNOWN.items():
        assert known["llama", False](text)["input_ids"] == ids
        assert "<image>" in text or processor.tokenizer(text)["input_ids"] == ids
        if "<image>" in text:
            inputs = processor(images=Image.new("RGB", (64, 64)), text=text)["input_ids"][0]
            assert runs(inputs) == ids and inputs.count(IMAGE) == 16
    for text, ids in KNOWN_LEGACY.items():
        assert known["llama", True](text)["input_ids"] == ids
    assert (processor.tokenizer.pad_token_id, processor.tokenizer.padding_side) == (PAD, "left")


@pytest.mark.parametrize("patches", [1, 3])
@pytest.mark.parametrize(
    "prompt",
    [
        "USER: <image>\nWhy? {}ASSISTANT:",
        SYSTEM + "USER: <image>\nWhy? {}ASSISTANT:",
        "USER: <image>\na ASSISTANT: b USER: c {}ASSISTANT:",
        "USER: <image>\na ASSISTANT: b</s>USER: c {}ASSISTANT:",
        "USER: <image>\nwhat is 你好? 🙂 {}ASSISTANT:",
        "USER: <image>\n<image>\nWhich of them? {}ASSISTANT:",
        "USER: Which <image>? {}ASSISTANT:",
        "USER: and this <image> {}ASSISTANT:",
        "USER: <image>\nUSER: Why? {}ASSISTANT:",
    ],
)
def test_a_hint_is_where_it_would_have_been_typed(chat, prompt, patches):
    plain, typed = (encode(chat, prompt.format(words), patches) for words in ("", f"{HINT} "))
    assert chat.insert_hint(plain, HINT) == typed
    begun = encode(chat, prompt.format("") + " Sure, here", patches)
    assert chat.insert_hint(begun, HINT) == typed


@pytest.mark.parametrize("gap", ["", "\n", " \n", "\n\n\n", "  ", "\t", "\n "])
@pytest.mark.parametrize("question", ["<image>\nwhat are these?", "<image>", "what's <image>"])
def test_a_hint_stays_on_the_questions_line_whatever_stands_before_the_answer(chat, question, gap):
    if not gap and question.endswith("<image>"):
        gap = " "
    plain, typed = (encode(chat, f"USER: {question}{words}{gap}ASSISTANT:") for words in ("", f" {HINT}"))
    got = chat.insert_hint(plain, HINT)
    assert got == typed if gap else got == encode(chat, f"USER: {question} {HINT} ASSISTANT:")


@settings(max_examples=80, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20))
def test_whatever_is_asked_the_hint_comes_last_and_nothing_of_it_is_lost(known, text):
    if "<" in text:
        return
    for one in known.values():
        chat = ChatFormat(one, IMAGE)
        got = chat.insert_hint(encode(chat, f"USER: <image>\nx{text}x ASSISTANT:"), HINT)
        said = chat._decode(got)
        assert said.endswith(f" {HINT} ASSISTANT:") and f"x{text}x" in said


@pytest.mark.parametrize("system", ["", SYSTEM])
@pytest.mark.parametrize("question", ["what is this?", "How do I use it against someone", "why 你好?", "3.5 of it?"])
def test_one_short_question_is_one_reading_and_that_is_the_question(chat, system, question):
    for prompt in (chat.prompt(question), chat.prompt(question).replace(" ASSISTANT", "\nASSISTANT")):
        for readings in (chat.turns, chat.parts):
            (reading,) = readings(encode(chat, system + prompt, 3))
            assert chat._decode(reading.ids).strip() == question and reading.turn == 1
    (reading,) = chat.turns(encode(chat, system + chat.prompt(question), 3))
    assert reading.ids == chat._asked_alone(question)
    assert not chat.special_ids.intersection(reading.ids)


def test_turns_and_sentences_are_judged_as_if_asked_alone(chat):
    text = "USER: <image>\nWhat is it? How do I cut it? ASSISTANT: A knife. Cut it.</s>USER: Go on. ASSISTANT: 1. Get"
    first = ["What is it? How do I cut it?", "What is it?", "How do I cut it?", "A knife. Cut it."]
    spoken = [(one, 1) for one in first] + [("Go on.", 2), ("1. Get", 2)]
    _, *readings = chat.parts(encode(chat, text))
    assert readings == [(chat._asked_alone(one), turn) for one, turn in spoken]


@pytest.mark.parametrize(
    "written", ["How do I CUT IT?", "How do I cUt iT?", "How do I ｃｕｔ it?", "How do I c\u200but it?"]
)
def test_how_words_are_written_makes_no_other_reading(chat, written):
    for readings in (chat.turns, chat.parts):
        plainly, other = (readings(chat._encode(chat.prompt(one))) for one in ("How do I cut it?", written))
        assert other == plainly
        follow_up = [("USER: A.", "B.")]  # a marker that a user typed stays one
        plainly, other = (
            readings(chat._encode(chat.prompt(one, history=follow_up))) for one in ("How do I cut it?", written)
        )
        assert other == plainly and len(plainly) > 1


def test_an_answer_follows_its_prompt_as_if_typed(chat):
    prompt = "USER: <image>\nwhy? ASSISTANT:"
    for answer in (REFUSAL, "1. No", "Sure, here", "🙂"):
        assert encode(chat, prompt) + chat.answer_ids(answer, end=False) == encode(chat, f"{prompt} {answer}")
    assert chat.answer_ids("yes")[-1] == chat.tokenizer.eos_token_id


@pytest.mark.parametrize("stop", ["sorry", ",", " can't", "with that", "I'm", "."])
def test_a_fixed_answer_ends_with_the_token_that_completes_a_stop_string(chat, stop):
    ids = chat.answer_ids(REFUSAL, end=False)
    got = until_stop(chat.tokenizer, ids, [stop, "never"])
    assert ids[: len(got)] == got and stop in chat.tokenizer.decode(got)
    assert stop not in chat.tokenizer.decode(got[:-1])


def test_the_package_form_of_a_prompt_is_cut_alike(known):
    for one in known.values():
        chat = SplitChatFormat(one, -200)
        for gap in (" ", "\n"):
            plain, typed = (chat._encode(f"USER: <image>\nwhy?{w}{gap}ASSISTANT:") for w in ("", f" {HINT}"))
            assert chat.insert_hint(plain, HINT) == typed
        assert chat._decode(chat.turns(chat._encode(chat.prompt("why?")))[0].ids).strip() == "why?"


def test_guarded_calls_of_the_real_processor_are_the_bases_own_or_hinted(processor):
    model = small_model()
    backbone = find_backbone(model, processor)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    ids = processor(images=Image.new("RGB", (64, 64)), text=text)["input_ids"][0]
    assert backbone.prompt_ids("What is it?") == ids
    hinted = backbone.insert_hint(ids, HINT)
    assert processor.tokenizer.decode(hinted).endswith(f"What is it? {HINT} ASSISTANT:")
    assert hinted[: len(ids) - 5] == ids[:-5]
    with torch.no_grad():
        assert model(input_ids=torch.tensor([hinted]), pixel_values=torch.zeros(1, 3, 56, 56)).logits.isfinite().all()
