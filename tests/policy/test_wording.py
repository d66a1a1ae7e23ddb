import pytest

from safety_modules.policy.policy import PLACES, check_plain, check_sentence, fill


def test_a_sentence_is_filled_and_trimmed():
    values = {"type": "theft", "level": "high", "reason": "", "probability": "0.93"}
    assert fill("{level} {type}, {probability}: {level}. {reason}", values) == "high theft, 0.93: high."


def test_what_is_filled_in_is_not_filled_again():
    assert fill("{type}", dict.fromkeys(PLACES, "{level}")) == "{level}"


def test_an_unknown_place_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown place \{kind\}; a sentence may use \{type\}, \{level\}"):
        check_sentence("a {kind} of {type}")


@pytest.mark.parametrize("text", ["{type", "type}", "{{type}}"])
def test_a_brace_that_makes_no_place_is_refused(text):
    with pytest.raises(ValueError, match="stray brace"):
        check_sentence(text)


def test_plain_text_has_no_braces_at_all():
    assert check_plain("It could hurt people.") == "It could hurt people."
    with pytest.raises(ValueError, match="stray brace"):
        check_plain("It could be {type}.")
