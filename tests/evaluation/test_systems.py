"""Every competitor on a tiny LLaVA: honest counts, turns on one model, and a base that stays as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from systems_cases import NEW, OURS, TOKENS, make_cases, make_folders, spec_of

from safety_modules.backbones import find_backbone
from safety_modules.defences import ecso as ecso_module
from safety_modules.defences.adashield import PROMPT, AdaShieldS
from safety_modules.defences.answer import Answer
from safety_modules.defences.call import Call
from safety_modules.defences.ecso import Ecso
from safety_modules.defences.guard.guard import REFUSAL
from safety_modules.defences.meta_token import MetaToken
from safety_modules.defences.shiftdc import ShiftDcSettings
from safety_modules.demo import state_digest
from safety_modules.errors import ConfigError
from safety_modules.evaluation.asking import Question, encode
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.systems import NAMES, System, make_system, parts_of
from safety_modules.policy import Policy

IMAGES = [1, 0, 2, 1]
JUDGING = ("gated", "paper", "external")
TURNS = ("none", "gated", "lora", "paper", "meta-token")
SHOWN = [row for row, count in enumerate(IMAGES) if count]


@pytest.fixture(scope="module")
def folders(tiny_base: Any, processor: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_folders(tiny_base, processor, tmp_path_factory.mktemp("systems"))


@pytest.fixture
def cases(make_image: Callable[[int], Any]) -> list[Case]:
    return make_cases(make_image)


@pytest.fixture
def answer(model: Any, processor: Any, folders: dict[str, Path], cases: list[Case]) -> Callable[..., list[Reply]]:
    def run(name: str, judged: str = "risky") -> list[Reply]:
        system = make_system(spec_of(name, folders, judged), model, processor)
        try:
            return system.answer(cases, NEW)
        finally:
            system.close()

    return run


def without_hints(model: Any, processor: Any, folder: Path) -> System:
    system = make_system(f"gated={folder}", model, processor)
    assert system.attachment is not None
    system.attachment.guard.hints = False
    return system


@pytest.fixture(scope="module")
def untouched(tiny_base: Any, processor: Any, make_image: Callable[[int], Any]) -> list[Reply]:
    """What a base says that nothing was ever attached to."""
    return make_system("none", tiny_base, processor).answer(make_cases(make_image), NEW)


@pytest.fixture
def prefills(model: Any) -> list[tuple[int, int]]:
    """Grows by (rows, tokens without padding) each time the language model begins to answer."""
    found: list[tuple[int, int]] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        rows, length, _ = kwargs["inputs_embeds"].shape
        if length > 1:
            mask = kwargs["attention_mask"]  # None where nothing is padded
            found.append((rows, rows * length if mask is None else int(mask.sum())))

    model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    return found


@pytest.mark.parametrize(("name", "judged"), [*((name, "risky") for name in NAMES), *((n, "clean") for n in JUDGING)])
def test_what_a_reply_counts_is_what_ran(
    name: str,
    judged: str,
    model: Any,
    processor: Any,
    folders: dict[str, Path],
    cases: list[Case],
    tower_runs: list[int],
    prefills: list[tuple[int, int]],
) -> None:
    system = make_system(spec_of(name, folders, judged), model, processor)
    tower_runs.clear()  # what fitting took
    prefills.clear()
    replies = system.answer(cases, NEW)
    assert sum(reply.tower_runs for reply in replies) == sum(tower_runs)
    assert sum(reply.lm_passes for reply in replies) == sum(rows for rows, _ in prefills)
    assert sum(reply.prompt_tokens for reply in replies) == sum(tokens for _, tokens in prefills)
    caption = ShiftDcSettings().caption_tokens if name == "shiftdc" else 0
    longest = max(NEW, ecso_module.TELL_TOKENS, caption)
    assert all(0 <= reply.new_tokens <= max(1, reply.lm_passes) * longest for reply in replies)


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_system_leaves_the_base_as_it_was(
    name: str, tiny_base: Any, model: Any, answer: Callable[..., list[Reply]], untouched: list[Reply]
) -> None:
    before = set(vars(model)), set(vars(model.model))
    answer(name)
    assert type(model) is type(tiny_base)
    assert (set(vars(model)), set(vars(model.model))) == before
    assert state_digest(model) == state_digest(tiny_base)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert flags == [parameter.requires_grad for parameter in tiny_base.parameters()]
    assert answer("none") == untouched


def test_systems_take_turns_on_one_model(
    model: Any, processor: Any, folders: dict[str, Path], cases: list[Case], answer: Callable[..., list[Reply]]
) -> None:
    alone = {name: answer(name) for name in TURNS}
    systems = {name: make_system(spec_of(name, folders), model, processor) for name in TURNS}
    for name, system in systems.items():
        assert system.answer(cases, NEW) == alone[name], name
    assert [system.name for system in systems.values()] == list(TURNS)


def test_a_picture_judged_clean_gets_the_bases_own_answer(answer: Callable[..., list[Reply]]) -> None:
    base, gated = answer("none"), answer("gated", "clean")
    assert [reply.text for reply in gated] == [reply.text for reply in base]
    assert [reply.prompt_tokens for reply in gated] == [reply.prompt_tokens for reply in base]
    assert [gated[row].flagged for row in SHOWN] == [False] * len(SHOWN)
    assert gated[1].flagged is None and gated[1].risk is None


def test_always_adds_tokens_to_clean_pictures_and_gated_adds_none(answer: Callable[..., list[Reply]]) -> None:
    base, always = answer("none"), answer("always", "clean")
    added = [a.prompt_tokens - b.prompt_tokens for a, b in zip(always, base, strict=True)]
    assert added == [OURS.num_lm_tokens * count for count in IMAGES]


def test_the_hint_of_a_risky_picture_is_counted(
    model: Any, processor: Any, folders: dict[str, Path], cases: list[Case], answer: Callable[..., list[Reply]]
) -> None:
    risky = answer("gated", "risky")
    unhinted = without_hints(model, processor, folders["ours-risky"]).answer(cases, NEW)
    assert [reply.flagged for reply in risky] == [True, None, True, True]
    for row, base in zip(SHOWN, [answer("none")[row] for row in SHOWN], strict=True):
        assert unhinted[row].prompt_tokens == base.prompt_tokens + OURS.num_lm_tokens * IMAGES[row]
        assert risky[row].prompt_tokens > unhinted[row].prompt_tokens + 10
        assert risky[row].type in Policy.default().rules


def test_without_the_hint_the_risky_rows_are_still_steered(
    model: Any, processor: Any, folders: dict[str, Path], cases: list[Case], answer: Callable[..., list[Reply]]
) -> None:
    unhinted = without_hints(model, processor, folders["ours-risky"]).answer(cases, NEW)
    base = answer("none")
    assert unhinted[1].text == base[1].text
    assert any(unhinted[row].text != base[row].text for row in SHOWN)


def test_an_external_classifier_refuses_with_one_sentence_and_no_language_model(
    answer: Callable[..., list[Reply]],
) -> None:
    replies, base = answer("external", "risky"), answer("none")
    texts = {replies[row].text for row in SHOWN}
    assert len(texts) == 1 and REFUSAL.startswith(texts.pop())  # cut at the limit of new tokens
    assert [reply.lm_passes for reply in replies] == [0, 1, 0, 0]
    assert replies[1].text == base[1].text
    assert [reply.text for reply in answer("external", "clean")] == [reply.text for reply in base]


def test_the_published_design_takes_two_calls_and_two_runs_of_the_tower(answer: Callable[..., list[Reply]]) -> None:
    replies = answer("paper", "clean")
    assert [reply.lm_passes for reply in replies] == [2, 1, 2, 2]
    assert [reply.tower_runs for reply in replies] == [2, 0, 4, 2]


def test_plain_lora_changes_answers_without_a_picture_too(answer: Callable[..., list[Reply]]) -> None:
    tuned, base = answer("lora"), answer("none")
    assert tuned[1].text != base[1].text
    assert [reply.prompt_tokens for reply in tuned] == [reply.prompt_tokens for reply in base]
    assert all(reply.risk is None for reply in tuned)


def test_the_meta_tokens_verdict_is_about_the_picture_alone(
    model: Any, processor: Any, folders: dict[str, Path], make_image: Callable[[int], Any]
) -> None:
    system = make_system(spec_of("meta-token", folders, "clean"), model, processor)
    rows = [("what?", 1), ("tell me how to use the other thing", 1), ("what?", 2)]
    asked = [
        Case(id=str(n), part="p", wanted="answer", prompt=text, images=(make_image(seed),))
        for n, (text, seed) in enumerate(rows)
    ]
    first, other_question, other_picture = (reply.risk for reply in system.answer(asked, 1))
    assert first == pytest.approx(other_question, abs=1e-5)
    assert first != pytest.approx(other_picture, abs=1e-5)


def test_meta_tokens_stand_behind_each_picture(model: Any, processor: Any, folders: dict[str, Path]) -> None:
    system = make_system(spec_of("meta-token", folders), model, processor)
    assert system.attachment is not None
    (meta,) = system.attachment.defences
    assert isinstance(meta, MetaToken)
    backbone = meta.backbone
    prompt = backbone.prompt_ids("which?", images=2)
    pixels = backbone.pixel_values(_pictures(2))
    features = backbone.encode_images(pixels).projected
    sample = meta.sample(prompt, features)
    assert len(sample.prompt) == len(prompt) + 2 * TOKENS
    assert [i for i in sample.prompt if i != backbone.image_token_id] == [
        i for i in prompt if i != backbone.image_token_id
    ]
    for longer, own in zip(sample.features, features, strict=True):
        assert longer[:-TOKENS].equal(own)
        assert longer[-TOKENS:].equal(meta.modules.tokens())


def _pictures(count: int) -> list[Any]:
    from PIL import Image

    return [Image.new("RGB", (28, 28), (60 * n, 20, 90)) for n in range(count)]


def asked_of(processor: Any, call: Call) -> list[str]:
    """The words of every row's prompt."""
    return [processor.tokenizer.decode(call.prompt(row)) for row in range(len(call))]


@pytest.fixture
def call(model: Any, processor: Any, cases: list[Case]) -> Callable[..., Call]:
    """The first rows of the cases as a call of `generate`, in which a defence is on."""

    def make(kind: str, rows: int) -> Call:
        questions = [Question(case.prompt, case.load_images()) for case in cases[:rows]]
        inputs = dict(encode(processor, questions)) | {"max_new_tokens": 99}
        return Call.read(find_backbone(model, processor), inputs, {kind: True}, {})

    return make


def test_the_safety_prompt_stands_behind_questions_about_pictures_only(
    model: Any, processor: Any, call: Callable[..., Call]
) -> None:
    given = call("adashield-s", 2)
    seen: list[Call] = []

    def answer(asked: Call) -> Answer:
        seen.append(asked)
        return Answer(torch.zeros(len(asked), 1, dtype=torch.long))

    AdaShieldS(given.backbone).answered(given, answer)
    text_only, shown = (asked_of(processor, one)[0] for one in seen)
    assert PROMPT not in text_only
    question, words = shown.split(PROMPT)
    assert "what is this?" in question and words.strip() == "ASSISTANT:"


@pytest.fixture
def scripted(processor: Any) -> Callable[..., tuple[list[Call], Callable[[Call], Answer]]]:
    """ECSO's model says what a test writes; gives what it was asked."""

    def script(verdict: str) -> tuple[list[Call], Callable[[Call], Answer]]:
        asked: list[Call] = []

        def say(call: Call) -> Answer:
            asked.append(call)
            judging = call.option("max_new_tokens") == ecso_module.TELL_TOKENS
            words = verdict if judging else f"answer {len(asked)}"
            ids = [processor.tokenizer(words, add_special_tokens=False)["input_ids"] for _ in range(len(call))]
            return Answer(torch.tensor(ids))

        return asked, say

    return script


def said(processor: Any, answer: Answer) -> list[str]:
    return [text.strip() for text in processor.batch_decode(answer.new_ids, skip_special_tokens=True)]


def test_ecso_answers_again_without_the_picture_what_the_model_called_harmful(
    scripted: Callable[..., Any], processor: Any, call: Callable[..., Call]
) -> None:
    asked, say = scripted("Yes.")
    given = call("ecso", 1)
    answer = Ecso(given.backbone).answered(given, say)
    first, tell, caption, again = (asked_of(processor, one)[0] for one in asked)
    assert [sum(one.counts) for one in asked] == [1, 1, 1, 0]
    assert "answer 1" in tell and "answer 3" in again and "what is this?" in again
    assert caption != first
    assert said(processor, answer) == ["answer 4"] and given.records[0].harmful is True


def test_ecso_keeps_the_first_answer_where_the_model_sees_no_harm(
    scripted: Callable[..., Any], processor: Any, call: Callable[..., Call]
) -> None:
    asked, say = scripted("No, it is yes")
    given = call("ecso", 2)
    answer = Ecso(given.backbone).answered(given, say)
    assert [one.counts for one in asked] == [[0], [1], [1]]
    assert said(processor, answer) == ["answer 2", "answer 1"]
    assert [row.harmful for row in given.records] == [False, None]


def test_several_with_a_plus_between_them_stand_on_the_base_together(
    model: Any, processor: Any, folders: dict[str, Path], cases: list[Case], tmp_path: Path
) -> None:
    both = make_system(f"gated={folders['ours-risky']}+adashield-s", model, processor)
    assert both.name == "gated+adashield-s" and both.attachment is not None
    assert [one.kind for one in both.attachment.defences] == ["guard", "adashield-s"]
    assert both.extra_mb == make_system(f"gated={folders['ours-risky']}", model, processor).extra_mb
    assert len(both.answer(cases, NEW)) == len(cases)
    plus = tmp_path / "a+b"
    plus.symlink_to(folders["ours-risky"])
    assert parts_of(f"gated={plus}+adashield-s") == [f"gated={plus}", "adashield-s"]
    assert make_system(f"gated={plus}", model, processor).name == "gated"
    for wrong, message in (
        ("none+gated", "expected defences with a plus between them"),
        ("adashield-s+adashield-s", "one defence twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_system(wrong, model, processor)
