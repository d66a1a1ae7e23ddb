"""Question forms: grammars, their splits, and the fixed sentences."""

import pytest

from safety_modules.pocket import language
from safety_modules.pocket.questions import TALK


def test_a_form_expands_to_all_its_realisations():
    assert language.expand("{A|B} c{| d}.") == ("A c.", "A c d.", "B c.", "B c d.")


@pytest.mark.parametrize("kind", language.FORMS)
def test_no_wording_of_training_occurs_in_validation_or_test(kind):
    forms = language.FORMS[kind]
    places = {"where": "x", "yes_no": "x", "use_place": "p", "do": "d"}.get(kind, "x" if "text" in kind else "")
    parts = [set(language.wordings(forms, split, frozenset(places))) for split in ("train", "validation", "test")]
    assert all(parts)
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len(parts[0]) > 2 * len(parts[1] | parts[2])


def test_a_form_without_enough_variants_is_an_error():
    with pytest.raises(ValueError, match="expected three or more"):
        language.wordings(("One {or|two}.",), "train")


def test_steps_use_verbs_that_fit_the_kind():
    assert language.steps("food", "cake") == "1. Get the cake. 2. Prepare the cake. 3. Eat the cake."
    assert language.steps("weapon", "bomb") == "1. Get the bomb. 2. Prepare the bomb. 3. Use the bomb."


def test_joined_reads_like_english():
    assert language.joined(["a dog"]) == "a dog"
    assert language.joined(["a dog", "an apple", "a bomb"]) == "a dog, an apple and a bomb"


def test_every_kind_of_question_has_a_title_of_its_own_in_plain_words():
    assert language.TITLES.keys() == {*language.FORMS, TALK}
    assert len(set(language.TITLES.values())) == len(language.TITLES)
    assert all("_" not in title and " " in title for title in language.TITLES.values())
