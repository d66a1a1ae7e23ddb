"""What the page judges and answers is what the handle judges and answers, read and limited as the server does."""

import asyncio

import pytest
from PIL import Image

pytest.importorskip("prometheus_client", reason="needs the extra serve")
pytest.importorskip("pydantic_settings", reason="needs the extra serve")

from web_cases import FIRST, LATER, OFF, SECOND, picture, playground, record

from safety_modules import attach_safety, pocket
from safety_modules.config import SafetyConfig
from safety_modules.errors import SafetyModulesError
from safety_modules.evaluation.asking import ask_records
from safety_modules.paths import adapter_dir
from safety_modules.policy.scores import LIMIT
from safety_modules.serving.settings import ServeSettings
from safety_modules.taxonomy import Taxonomy
from safety_modules.web.playground import Playground, Setting


@pytest.fixture(scope="module")
def other_types(tmp_path_factory):
    """An adapter that shares one type and one level with the shipped one."""
    model, processor = pocket.load()
    taxonomy = Taxonomy(types=("illegal", "allergen"), levels=("safe", "mild", "high"))
    design = SafetyConfig(taxonomy=taxonomy, width=16, num_head_tokens=2, attention_heads=2, lora=None)
    safety = attach_safety(model, processor, config=design)
    safety.trained, safety.thresholds = True, dict.fromkeys(taxonomy.types, -LIMIT)
    return safety.save_pretrained(tmp_path_factory.mktemp("other") / "types")


@pytest.mark.parametrize("first", ["shipped", "other"])
def test_adapters_of_other_types_and_levels_are_compared(other_types, first):
    model, processor = pocket.load()
    folders = {"shipped": adapter_dir(), "other": other_types}
    safety = attach_safety(model, processor, folders.pop(first), adapter_name=first)
    own = Playground(safety, folders)
    assert {"politics", "illegal", "allergen"} <= {*own.policy.rules}
    assert {*own.policy.wording} == {"low", "medium", "mild", "high"} and not own.looser(own.policy)
    prompt = own.prompt(picture("attack"), record("attack").question)
    for name, known in own.adapters.items():
        verdict = own.judged(prompt, record("attack").question, Setting(name, own.policy))
        assert tuple(verdict.scores) == known.taxonomy.types and verdict.flagged
    stricter = own.policy.with_rule("allergen", action="refuse")
    assert own.judged(prompt, "?", Setting("other", stricter)).action in ("hint", "refuse")


def setting(adapter=FIRST, off=OFF, **changes):
    return Setting(adapter, playground().policy.changed(changes), off)


def prompt(kind="attack"):
    return playground().prompt(picture(kind), record(kind).question)


def judged(kind="attack", **options):
    return playground().judged(prompt(kind), record(kind).question, setting(**options))


def answer(kind="attack", guarded=True, **options):
    async def collected():
        return [text async for text in playground().answer(prompt(kind), setting(**options), guarded)]

    return asyncio.run(collected())


def asked(kind, **options):
    model, processor = playground().safety.backbone.model, playground().safety.backbone.processor
    return ask_records(model, processor, [record(kind)], **options)


def test_the_verdict_is_the_handles():
    safety = playground().safety
    for kind in ("attack", "benign"):
        (expected,) = safety.classify(record(kind).load_image(), record(kind).question)
        assert judged(kind) == expected
        assert expected.flagged == (kind == "attack")


def test_the_answers_are_the_handles_and_come_in_pieces():
    with playground().safety.disabled(*OFF):
        guarded = asked("attack", safety=True)
    base = asked("attack", safety=False)
    for pieces, expected in ((answer(), guarded), (answer(guarded=False), base)):
        assert pieces[-1] == expected.texts[0]
        assert len(pieces) > 3 and all(pieces[-1].startswith(piece) for piece in pieces)
    assert guarded.verdicts[0] == judged()
    assert base.texts != guarded.texts


def test_a_policy_is_the_calls_and_leaves_nothing_behind():
    refusing = {"rules": {type: {"action": "refuse"} for type in playground().policy.rules}, "refusal": "Not that one."}
    assert answer(**refusing)[-1] == "Not that one."
    assert answer()[-1] != "Not that one."
    off = {"rules": {type: {"action": "allow"} for type in playground().policy.rules}}
    assert not judged(**off).flagged
    assert answer(**off)[-1] == answer(guarded=False)[-1]


def test_a_defence_that_is_off_does_not_act_and_nothing_stays_off():
    assert answer(off=("guard", *OFF))[-1] == answer(guarded=False)[-1]
    assert answer("benign", off=("ecso",))[-1] != answer("benign", off=OFF)[-1]
    assert playground().safety.enabled
    assert len(playground().safety.defences_on) == 3


def test_answers_are_streamed_unless_a_defence_that_is_on_may_take_them_back(monkeypatch):
    safety, streamed = playground().safety, []
    generate = type(safety).generate

    def noting(self, **options):
        streamed.append("streamer" in options)
        return generate(self, **options)

    monkeypatch.setattr(type(safety), "generate", noting)
    answer(off=OFF)
    answer(off=("adashield-s",))  # ecso is on
    answer(off=("adashield-s",), guarded=False)
    assert streamed == [True, False, True]


def test_two_adapters_judge_by_their_own_thresholds_until_somebody_sets_one():
    assert judged().flagged and not judged(adapter=SECOND).flagged
    assert set(judged(adapter=SECOND).limits.values()) == {LATER}
    assert answer(adapter=SECOND)[-1] == answer(guarded=False)[-1]
    both = {"rules": {type: {"threshold": "10 %"} for type in playground().policy.rules}}
    assert judged(**both).limits == judged(adapter=SECOND, **both).limits
    assert judged(adapter=SECOND, **both).flagged


def test_a_looser_policy_is_told():
    policy = playground().policy
    assert playground().looser(policy) == []
    (told,) = playground().looser(policy.with_rule("illegal", action="log"))
    assert told.startswith("illegal: action log")


def test_an_answer_nobody_waits_for_ends():
    async def first_piece():
        pieces = playground().answer(prompt(), setting(), False)
        await pieces.__anext__()
        await pieces.aclose()
        return [text async for text in playground().answer(prompt(), setting(), False)]

    assert asyncio.run(first_piece())[-1] == answer(guarded=False)[-1]


def test_an_answer_that_takes_too_long_is_a_sentence():
    impatient = Playground(playground().safety, settings=ServeSettings(request_seconds=1e-6))

    async def late():
        return [text async for text in impatient.answer(prompt(), Setting(FIRST, impatient.policy, OFF))]

    with pytest.raises(SafetyModulesError, match="within 1e-06 seconds"):
        asyncio.run(late())


@pytest.mark.parametrize(
    ("settings", "question", "told"),
    [
        ({}, "  ", "expected a question, got none"),
        ({}, "<image> and this?", "the mark that the model reads as a picture"),
        ({"max_image_bytes": 100}, "What is this?", "expected at most 100 bytes"),
        ({"max_pixels": 100}, "What is this?", "expected at most 100 pixels, got 96 x 96"),
        ({"max_characters": 5}, "What is this?", "expected at most 5 characters"),
    ],
)
def test_the_servers_limits_hold(settings, question, told):
    limited = Playground(playground().safety, settings=ServeSettings(**settings))
    with pytest.raises(SafetyModulesError, match=told):
        limited.prompt(picture("attack"), question)


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    for name, data in (("a.png", b"words"), ("b.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), ("c.png", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SafetyModulesError, match="got something else or a damaged one"):
            playground().prompt(tmp_path / name, "What is this?")
    Image.new("RGB", (8, 8)).save(tmp_path / "d.tiff")
    with pytest.raises(SafetyModulesError, match="expected one of PNG"):
        playground().prompt(tmp_path / "d.tiff", "What is this?")
