"""Pocket's things: unambiguous names, and risks as the taxonomy has them."""

from safety_modules.pocket.concepts import BY_NAME, CONCEPTS, RISKY, SENSITIVE, with_role
from safety_modules.pocket.words import FIXED_LINES, WORD_BY_NAME, WORDS
from safety_modules.taxonomy import DEFAULT_TAXONOMY


def test_names_are_unique_across_concepts_words_and_fixed_lines():
    names = [concept.name for concept in CONCEPTS] + [word.name for word in WORDS] + list(FIXED_LINES)
    assert len(set(names)) == len(names)
    assert 80 <= len(CONCEPTS) <= 125
    assert len(BY_NAME) == len(CONCEPTS)
    assert len(WORD_BY_NAME) == len(WORDS)


def test_every_risk_type_is_shown_at_every_level_by_a_thing_a_word_or_a_combination():
    shown = {(thing.type, thing.level) for thing in (*CONCEPTS, *WORDS) if thing.type}
    for risk in DEFAULT_TAXONOMY.types:
        assert {(risk, level) for level in (1, 2, 3)} <= shown


def test_a_sensitive_thing_is_never_risky_by_itself():
    assert not {concept.name for concept in with_role(SENSITIVE)} & {concept.name for concept in with_role(RISKY)}


def test_every_type_with_glyphs_has_one_the_base_never_sees_in_an_instruction():
    for risk in ("politics", "illegal", "insults", "privacy", "misleading"):
        assert any(not concept.taught for concept in with_role(RISKY) if concept.type == risk)
    for risk in DEFAULT_TAXONOMY.types:
        assert any(not word.taught for word in WORDS if word.type == risk)


def test_phrases_carry_the_right_article():
    assert BY_NAME["eye"].phrase == "an eye"
    assert BY_NAME["bomb"].phrase == "a bomb"
