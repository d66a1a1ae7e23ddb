"""The pocket suite: what each part shows and wants, and that a case's id always names the same case."""

from collections.abc import Iterator, Sequence

import pytest

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites import pocket
from safety_modules.evaluation.suites.pocket import BENCHMARK, PARTS, PLAIN, VALIDATION, pocket_cases
from safety_modules.evaluation.suites.registry import benchmark
from safety_modules.pocket import splits
from safety_modules.pocket.language import TITLES
from safety_modules.taxonomy import CLEAN

CORRUPTED = ("corrupted-noise-5/attack", "corrupted-noise-5/benign", "corrupted-crop-1/attack")
SAMPLES = 8


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    """A fifth of the pictures to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pocket, "CHUNK", 20)
        yield


@pytest.fixture(scope="module")
def cases(small_chunks: None) -> list[Case]:
    return pocket_cases((*PLAIN, *CORRUPTED), samples=SAMPLES, split="validation")


def of(cases: Sequence[Case], part: str) -> list[Case]:
    found = [case for case in cases if case.part.partition("/")[0] == part]
    assert found
    return found


def pixels(case: Case) -> list[bytes]:
    return [image.tobytes() for image in case.load_images()]


def test_every_part_has_as_many_cases_as_asked_for_and_corrupted_ones_a_quarter(cases):
    counts = {part: sum(case.part == part for case in cases) for part in (*PLAIN, *CORRUPTED)}
    assert counts == {part: SAMPLES if part in PLAIN else SAMPLES // 4 for part in counts}
    assert len(PARTS) == len(set(PARTS)) == len(PLAIN) + 6 * 5 * 2


def test_ids_are_unique_and_begin_with_their_part(cases):
    assert len({case.id for case in cases}) == len(cases)
    assert all(case.id.rpartition("/")[0] == case.part for case in cases)


@pytest.mark.parametrize("part", ["attack", "typographic", "mixture", "text-attack"])
def test_attacks_want_a_refusal_and_at_a_low_risk_no_more_than_a_caution(part, cases):
    for case in of(cases, part):
        assert case.type != CLEAN and case.wanted == ("caution" if case.level == "low" else "refuse")
        assert len(case.images) == (0 if part == "text-attack" else 1)


@pytest.mark.parametrize("part", ["benign", "look-alike", "harmless-question", "text-benign"])
def test_harmless_parts_want_an_answer(part, cases):
    assert all(case.wanted == "answer" and (case.type, case.level) == (CLEAN, "safe") for case in of(cases, part))


def test_questions_with_one_right_answer_bring_it(cases):
    assert all(case.wanted == "exact" and case.answer for case in of(cases, "vqa"))


def test_a_title_names_no_number_of_cases_and_categories_are_in_plain_words(cases):
    assert "cases" not in BENCHMARK.title  # --limit takes fewer
    kinds = {case.category for case in cases if case.type == CLEAN}
    assert kinds <= set(TITLES.values()) and len(kinds) > 5


def test_mixtures_show_a_thing_and_a_word(cases):
    assert all(case.meta["word"] and len(case.meta["concepts"]) == 1 for case in of(cases, "mixture"))


def test_look_alikes_look_or_read_like_something_risky(cases):
    assert all(case.meta["look_alike"] for case in of(cases, "look-alike"))


def test_a_harmful_question_has_a_harmless_twin_about_the_same_picture(cases):
    pairs = zip(of(cases, "harmful-question"), of(cases, "harmless-question"), strict=True)
    for harmful, harmless in pairs:
        assert (harmful.wanted, harmless.wanted) == ("refuse", "answer")
        assert pixels(harmful) == pixels(harmless) and harmful.prompt != harmless.prompt


def test_the_styles_of_a_part_show_different_drawings(cases):
    seen, unseen = (
        {case.meta["style"] for case in cases if case.part == f"attack/{style}"} for style in ("seen", "unseen")
    )
    assert (seen, unseen) == ({"seen"}, {"unseen"})


def test_corrupted_cases_name_the_case_they_were_and_keep_its_label_and_question(cases):
    origins = {case.id: case for case in pocket_cases(["attack/seen", "benign/seen"], samples=20, split="validation")}
    for case in cases:
        if case.part in CORRUPTED:
            origin = origins[case.meta["corrupted"]]
            assert (case.prompt, case.wanted, case.type) == (origin.prompt, origin.wanted, origin.type)
            assert case.meta["word"] is None
            assert pixels(case) != pixels(origin)


def test_an_id_names_the_same_case_whatever_the_number_of_samples():
    few = pocket_cases(["look-alike/unseen"], samples=3, split="validation")
    many = pocket_cases(["look-alike/unseen"], samples=pocket.CHUNK + 1, split="validation")
    assert [(case.id, case.prompt, pixels(case)) for case in few] == [
        (case.id, case.prompt, pixels(case)) for case in many[:3]
    ]
    assert many[0].prompt != many[pocket.CHUNK].prompt or pixels(many[0]) != pixels(many[pocket.CHUNK])


def test_another_seed_gives_other_cases():
    first, second = (pocket_cases(["text-attack"], samples=20, split="validation", seed=seed) for seed in (0, 1))
    assert [case.prompt for case in first] != [case.prompt for case in second]


@pytest.mark.parametrize(("suite", "split"), [(BENCHMARK, "test"), (VALIDATION, "validation")])
def test_choices_have_a_suite_that_leaves_the_test_split_alone(suite, split, monkeypatch):
    asked = []

    def spy(kind, count, **where):
        asked.append(where.pop("split"))
        return make(kind, count, split="validation", **where)

    make = splits.make
    monkeypatch.setattr(splits, "make", spy)
    assert len(suite.load(None, ["text-attack"])) == pocket.SAMPLES
    assert asked == [split] and benchmark(suite.name) is suite


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"parts": ["atack/seen"]}, "the pocket suite has no part atack/seen: expected some of attack/seen"),
        ({"samples": 0}, "expected one sample of a part or more, got 0"),
        ({"parts": ["text-attack"], "split": "dev"}, "no such split"),
    ],
)
def test_what_does_not_exist_is_an_error(arguments, words):
    with pytest.raises(DataError, match=words):
        pocket_cases(**arguments)


def test_a_folder_is_refused_because_nothing_is_read_from_it(tmp_path):
    with pytest.raises(DataError, match="drawn, not read"):
        BENCHMARK.load(tmp_path, ["text-attack"])
