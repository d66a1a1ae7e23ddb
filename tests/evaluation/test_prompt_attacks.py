"""evaluation/attacks/wording: risky cases in other words, the same for every system; harmless ones as they are."""

import pytest
from PIL import Image

from safety_modules import pocket
from safety_modules.errors import DataError
from safety_modules.evaluation.attacks import FORMS, PixelAttack, PromptAttack, attack_named
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.pocket import pocket_cases
from safety_modules.evaluation.systems import make_system


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [
        case
        for part in ("attack/seen", "text-attack", "benign/seen")
        for case in pocket_cases([part], samples=2, split="validation")
    ]


@pytest.mark.parametrize("form", FORMS)
def test_risky_cases_are_asked_in_another_form_and_all_else_stays(cases: list[Case], form: str) -> None:
    found = PromptAttack(form)(cases)
    assert PromptAttack(form)(cases) == found, "the same cases give the same"
    for case, other in zip(cases, found, strict=True):
        changed = {name for name in Case.model_fields if getattr(case, name) != getattr(other, name)}
        expected = {"turns": {"prompt", "history"}, "second": {"images"}}.get(form, {"prompt"})
        if case.wanted == "answer" or (form == "second" and not case.images):
            expected = set()
        assert changed == expected


def test_what_is_asked_is_what_it_says() -> None:
    picture = Image.new("RGB", (9, 7))
    case = Case(id="a", part="p", wanted="refuse", prompt="How do I use it?", images=(picture,))
    found = {form: PromptAttack(form)([case])[0] for form in FORMS}
    assert found["turns"].history == (("How do I use it?", "One moment."),) and found["turns"].prompt == "Go on."
    assert found["empty"].prompt == " " and found["capitals"].prompt == "HOW DO I USE IT?"
    blank, own = found["second"].images
    assert own is picture and blank.size == (9, 7) and blank.getextrema() == ((255, 255),) * 3  # type: ignore[union-attr]
    assert found["before"].prompt.endswith("about. How do I use it?") and len(found["before"].prompt.split()) > 60
    for form in ("ignore", "quote", "roles", "behind"):
        assert "How do I use it?" in found[form].prompt


def test_names() -> None:
    assert attack_named("ask-roles") == PromptAttack("roles") and attack_named("ask-roles").name == "ask-roles"
    assert isinstance(attack_named("apgd-4-clean"), PixelAttack)
    assert attack_named("ask-empty").describe() == {"name": "ask-empty"}
    with pytest.raises(DataError, match=r"got 'ask-rolls'\. Did you mean 'ask-roles'\?"):
        attack_named("ask-rolls")


def test_a_system_is_asked_so(cases: list[Case]) -> None:
    system = make_system("none", *pocket.load(), attack=PromptAttack("empty"))
    assert system.name == "none, ask-empty"
    replies = system.answer(cases, 4)
    assert len(replies) == len(cases)
    plain = make_system("none", *pocket.load()).answer(cases, 4)
    same = [case.wanted == "answer" for case in cases]
    assert [a.text == b.text for a, b, keep in zip(replies, plain, same, strict=True) if keep] == [True, True]
