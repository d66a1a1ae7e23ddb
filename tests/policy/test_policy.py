from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from safety_modules.errors import PolicyError
from safety_modules.policy import Policy, Rule
from safety_modules.policy.scores import LIMIT, log_odds, probability
from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy

LEVELS = (0.1, 0.2, 0.3, 0.4)


def types(**given):
    """Probabilities of all labels; what is not given goes to clean."""
    given.setdefault("clean", 1 - sum(given.values()))
    return [given.get(name, 0.0) for name in DEFAULT_TAXONOMY.labels]


def decide(policy, level_probs=LEVELS, thresholds=None, **given):
    return policy.decide(types(**given), level_probs, DEFAULT_TAXONOMY, thresholds)


def test_default_policy_fits_the_default_taxonomy_and_hints_every_type():
    policy = Policy.default()
    policy.check(DEFAULT_TAXONOMY)
    assert {rule.action for rule in policy.rules.values()} == {"hint"}


def test_default_hints_are_the_documented_sentences():
    policy = Policy.default()
    assert policy.hint("illegal", "high") == (
        "Note: this image carries a high risk of illegal activity. You must decline and say why."
    )
    assert policy.hint("privacy", "low") == (
        "Note: this image may carry a low risk of privacy violation. Answer, but begin with a caution."
    )
    assert policy.refusal_text("misleading", "high") == "I'm sorry, I can't help with that. It could deceive people."


def test_a_rule_fires_at_its_threshold_and_not_below():
    policy = Policy.default()
    assert decide(policy, illegal=0.5).flagged
    below = decide(policy, illegal=0.49)
    assert not below.flagged and below.rule is None and below.action == "allow"


def test_the_rule_s_threshold_beats_the_calibrated_one_which_beats_the_default():
    policy = Policy.default()
    assert decide(policy, illegal=0.3, thresholds={"illegal": log_odds(0.299)}).flagged
    assert not decide(policy, illegal=0.6, thresholds={"illegal": log_odds(0.7)}).flagged
    own = policy.with_rule("illegal", threshold="20 %")
    assert decide(own, illegal=0.25, thresholds={"illegal": log_odds(0.7)}).flagged


def test_of_several_rules_that_fire_the_most_probable_wins():
    policy = Policy.default()
    thresholds = dict.fromkeys(DEFAULT_TAXONOMY.types, log_odds(0.2))
    verdict = decide(policy, illegal=0.3, privacy=0.4, thresholds=thresholds)
    assert verdict.type == "privacy"
    assert verdict.rule == "privacy: score 0.85 >= -1.39 -> hint, level medium: p=0.78 >= 0.50"


def test_an_image_that_is_surely_risky_fires_even_where_its_type_is_doubtful():
    verdict = decide(Policy.default(), illegal=0.4, privacy=0.45)
    assert verdict.flagged and verdict.type == "privacy"
    assert not decide(Policy.default().allow("privacy"), illegal=0.4, privacy=0.45).flagged


def test_a_type_switched_off_touches_no_other():
    policy = Policy.default().allow("illegal")
    off = decide(policy, illegal=0.95)
    assert not off.flagged and off.action == "allow"
    assert off.type == "illegal" and off.risk == pytest.approx(0.95)  # what the head saw is not hidden
    for name in DEFAULT_TAXONOMY.types:
        if name != "illegal":
            assert decide(policy, **{name: 0.95}) == decide(Policy.default(), **{name: 0.95})


def test_a_type_switched_off_gives_way_to_the_next_that_fires():
    thresholds = dict.fromkeys(DEFAULT_TAXONOMY.types, log_odds(0.2))
    verdict = decide(Policy.default().allow("illegal"), illegal=0.6, privacy=0.3, thresholds=thresholds)
    assert verdict.flagged and verdict.type == "privacy"


@pytest.mark.parametrize("action", ["log", "hint", "refuse"])
def test_every_action_but_allow_flags(action):
    verdict = decide(Policy.default().with_rule("illegal", action=action), illegal=0.9)
    assert verdict.flagged and verdict.action == action


def test_a_fired_rule_never_speaks_of_the_safe_level():
    verdict = decide(Policy.default(), level_probs=(0.9, 0.02, 0.05, 0.03), illegal=0.9)
    assert verdict.level == "medium"
    assert decide(Policy.default(), level_probs=(0.9, 0.02, 0.05, 0.03)).level == "safe"


@pytest.mark.parametrize(
    ("level_threshold", "level"), [(1.0, "low"), (0.45, "low"), (0.4, "medium"), (0.15, "medium"), (0.1, "high")]
)
def test_the_level_is_the_highest_that_is_probable_enough_given_risk(level_threshold, level):
    policy = Policy.default().model_copy(update={"level_threshold": level_threshold})
    verdict = decide(policy, level_probs=(0.5, 0.3, 0.15, 0.05), illegal=0.9)
    at_least = {"low": 1.0, "medium": 0.4, "high": 0.1}[level]  # given that there is a risk
    assert verdict.level == level
    assert verdict.rule.endswith(f"level {level}: p={at_least:.2f} >= {level_threshold:.2f}")
    assert verdict.level_probabilities == dict(zip(DEFAULT_TAXONOMY.levels, (0.5, 0.3, 0.15, 0.05), strict=True))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_a_lower_level_threshold_is_never_less_careful(level_probs, one, other):
    levels = [
        DEFAULT_TAXONOMY.level_index(
            decide(Policy.default().model_copy(update={"level_threshold": limit}), level_probs, illegal=0.9).level
        )
        for limit in (min(one, other), max(one, other))
    ]
    assert levels[0] >= levels[1] > 0


def test_by_default_low_means_more_probable_than_all_above_it():
    assert decide(Policy.default(), level_probs=(0.0, 0.51, 0.29, 0.2), illegal=0.9).level == "low"
    assert decide(Policy.default(), level_probs=(0.0, 0.49, 0.26, 0.25), illegal=0.9).level == "medium"


def test_a_level_head_that_is_certain_of_safe_while_a_type_fires_gets_the_highest_level():
    assert decide(Policy.default(), level_probs=(1.0, 0.0, 0.0, 0.0), illegal=0.9).level == "high"


def test_the_level_threshold_is_data(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("level_threshold: 0.2\nrules: {}\n")
    assert Policy.from_yaml(path).level_threshold == 0.2
    path.write_text("level_threshold: 2\nrules: {}\n")
    with pytest.raises(PolicyError, match="level_threshold"):
        Policy.from_yaml(path)


def test_tensors_and_lists_give_the_same_verdict():
    policy, probabilities = Policy.default(), torch.tensor(types(illegal=0.75))
    by_tensor = policy.decide(probabilities, torch.tensor([0.25] * 4), DEFAULT_TAXONOMY)
    assert by_tensor == policy.decide(probabilities.tolist(), [0.25] * 4, DEFAULT_TAXONOMY)


def test_nan_is_refused_because_it_would_read_as_clean():
    with pytest.raises(PolicyError, match="expected finite type probabilities"):
        Policy.default().decide([float("nan")] * 7, LEVELS, DEFAULT_TAXONOMY)
    with pytest.raises(PolicyError, match="expected finite level probabilities"):
        Policy.default().decide(types(), [float("inf")] * 4, DEFAULT_TAXONOMY)


def test_too_few_probabilities_are_refused():
    with pytest.raises(PolicyError, match="expected 7 type probabilities, got 6"):
        Policy.default().decide([0.1] * 6, LEVELS, DEFAULT_TAXONOMY)


def test_a_policy_for_another_taxonomy_is_refused_with_every_problem():
    taxonomy = Taxonomy(types=("illegal", "gore"), levels=("safe", "bad"))
    with pytest.raises(PolicyError) as caught:
        Policy.default().decide([0.1, 0.1, 0.8], [0.5, 0.5], taxonomy)
    message = str(caught.value)
    assert "no rule for type 'gore'" in message
    assert "rule for unknown type 'politics'" in message
    assert "rule 'illegal' has no hint for level 'bad'" in message
    assert "wording for unknown level 'medium'" in message


def test_changing_a_rule_leaves_the_original_alone():
    policy = Policy.default()
    changed = policy.with_rule("privacy", action="refuse", threshold=-0.8)
    assert changed.rules["privacy"].action == "refuse" and changed.rules["privacy"].threshold == -0.8
    assert policy == Policy.default()


def test_bad_changes_are_refused():
    policy = Policy.default()
    with pytest.raises(PolicyError, match=r"expected one of politics, .* got 'privcy'"):
        policy.allow("privcy")
    with pytest.raises(PolicyError, match="rule 'privacy' refused"):
        policy.with_rule("privacy", threshold=LIMIT + 1)
    with pytest.raises(PolicyError, match="unknown key 'treshold'"):
        policy.with_rule("privacy", treshold=0.5)


def test_templates_know_four_places_and_no_attributes():
    rule = Rule(title="x", wording={"high": "{type} {level} {reason} {probability}"}, reason="Because.")
    policy = Policy(rules={"illegal": rule})
    assert policy.hint("illegal", "high", 0.934) == "x high Because. 0.93"
    for text in ("{type.__class__}", "{0}", "{kind}", "{}"):
        with pytest.raises(ValidationError, match="unknown place"):
            Rule(wording={"high": text})
        with pytest.raises(ValidationError, match="unknown place"):
            Policy(rules={}, refusal=text)


@pytest.mark.parametrize("text", ["a {type risk", "a type} risk", "{{type}}", "{", "a } and {level}"])
def test_a_brace_that_makes_no_place_is_refused_not_shown(text):
    with pytest.raises(ValidationError, match="stray brace"):
        Rule(refusal=text)


@pytest.mark.parametrize("key", ["title", "reason"])
def test_titles_and_reasons_hold_no_places_because_nothing_would_fill_them(key):
    with pytest.raises(ValidationError, match="stray brace"):
        Rule(**{key: "for {type}"})


def test_a_rule_s_own_words_come_first():
    policy = Policy.default().with_rule("illegal", wording={"high": "Stop."}, refusal="No.")
    assert policy.hint("illegal", "high") == "Stop."
    assert policy.hint("illegal", "low") == Policy.default().hint("illegal", "low")
    assert policy.refusal_text("illegal", "high") == "No."


def test_yaml_round_trip(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("wording: {low: a, medium: b, high: c}\nrules:\n  illegal: {action: refuse, threshold: -0.8}\n")
    policy = Policy.from_yaml(path)
    assert policy.rules["illegal"] == Rule(action="refuse", threshold=-0.8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: {illegal: {action: explode}}", "rules.illegal.action"),
        ("rules: {}\nthresholds: {}", "unknown key 'thresholds'"),
        ("rules:\n  illegal: {action: hint}\n  illegal: {action: allow}", "'illegal' appears twice"),
        ("rules: [", "expected YAML"),
        ("!!python/object/apply:os.system ['true']", "expected YAML"),
        ("just words", "refused"),
    ],
)
def test_a_policy_file_that_could_be_misread_is_refused(tmp_path, text, words):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=words):
        Policy.from_yaml(path)


def test_a_missing_policy_file_is_an_error(tmp_path):
    with pytest.raises(PolicyError, match="policy not read"):
        Policy.from_yaml(tmp_path / "nowhere.yaml")


def test_a_default_policy_that_somebody_changes_leaves_the_next_one_alone():
    Policy.default().rules.clear()
    assert Policy.default().rules


@pytest.mark.parametrize(("written", "score"), [("90 %", 2.197), ("50%", 0.0), (4.6, 4.6), (0, 0.0), (-3, -3.0)])
def test_a_threshold_is_a_log_odds_or_a_probability_with_its_sign(written, score, tmp_path):
    assert Policy.default().with_rule("privacy", threshold=written).rules["privacy"].threshold == pytest.approx(
        score, abs=1e-3
    )
    path = tmp_path / "policy.yaml"
    path.write_text(f"default_threshold: {written}\nrules: {{}}\n")
    assert Policy.from_yaml(path).default_threshold == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("written", [0.5, 0.41, 0.999])
def test_a_number_that_may_be_an_old_probability_is_refused_with_both_readings(written, tmp_path):
    path = tmp_path / "policy.yaml"
    for text in (f"default_threshold: {written}\nrules: {{}}", f"rules: {{illegal: {{threshold: {written}}}}}"):
        path.write_text(text)
        with pytest.raises(PolicyError, match=f"Write '{100 * written:g} %' for the probability, "):
            Policy.from_yaml(path)
    with pytest.raises(PolicyError, match=f"'{100 * probability(written):.3g} %' for the log-odds"):
        Policy.default().with_rule("privacy", threshold=written)


@pytest.mark.parametrize("written", ["90", "high", "0 %", "100 %", "-5 %", "", float("nan"), float("inf"), 31, -31])
def test_what_no_score_can_be_compared_with_is_no_threshold(written):
    with pytest.raises(PolicyError, match="rule 'privacy' refused"):
        Policy.default().with_rule("privacy", threshold=written)


def added(policy, allergens, thresholds=None, level_probs=(0.0, 0.0, 0.0, 1.0), **given):
    """The verdict of an adapter with an added type whose branch says `allergens`."""
    taxonomy = Taxonomy(types=(*DEFAULT_TAXONOMY.types, "allergens"), levels=DEFAULT_TAXONOMY.levels)
    first = types(**given)
    rules = {**policy.rules, "allergens": Rule()} if "allergens" not in policy.rules else policy.rules
    policy = policy.model_copy(update={"rules": rules})
    return policy.decide([*first[:-1], allergens, first[-1]], LEVELS, taxonomy, thresholds, added_levels=[level_probs])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.001, 1), min_size=7, max_size=7), st.floats(0.001, 0.999))
def test_an_added_type_leaves_every_verdict_of_the_others_as_it_was(weights, allergens):
    probabilities = dict(zip(DEFAULT_TAXONOMY.labels, (w / sum(weights) for w in weights), strict=True))
    alone = decide(Policy.default(), **probabilities)
    beside = added(Policy.default(), allergens, **probabilities)
    assert {name: beside.scores[name] for name in alone.scores} == alone.scores
    assert {name: beside.probabilities[name] for name in alone.probabilities} == alone.probabilities
    if alone.flagged or not beside.flagged:
        fields = ("type", "level", "risk", "rule", "action", "flagged", "level_probabilities")
        assert [getattr(beside, name) for name in fields] == [getattr(alone, name) for name in fields]
    assert beside.scores["allergens"] == pytest.approx(log_odds(allergens))
    assert beside.flagged == (alone.flagged or allergens >= 0.5)


def test_an_added_type_that_fires_alone_has_its_branch_s_level_and_probability():
    verdict = added(Policy.default(), 0.9, illegal=0.2)
    assert verdict.type == "allergens" and verdict.level == "high" and verdict.risk == pytest.approx(0.9)
    assert verdict.level_probabilities["high"] == 1.0


def test_an_added_type_outdoes_another_only_by_a_stronger_action():
    policy = Policy.default().completed({"allergens": Rule()})
    assert added(policy, 0.99, illegal=0.6).type == "illegal"
    assert added(policy.with_rule("allergens", action="refuse", refusal="No."), 0.6, illegal=0.9).action == "refuse"
    assert added(policy.with_rule("illegal", action="log"), 0.6, illegal=0.9).type == "allergens"
    assert added(policy.with_rule("allergens", action="log"), 0.6, illegal=0.9).type == "illegal"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: {}\ndefalt_threshold: 0.5", r"unknown key 'defalt_threshold'.* Did you mean 'default_threshold'"),
        ("rules: {privacy: {treshold: 0.5}}", r"unknown key 'rules\.privacy\.treshold'.* Did you mean 'threshold'"),
        ("rules: {privacy: {action: refse}}", r"got 'refse'\. Did you mean 'refuse'"),
    ],
)
def test_a_slip_in_a_policy_file_is_told_with_what_was_meant(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(PolicyError, match=words):
        Policy.from_yaml(tmp_path / "policy.yaml")


def test_a_slip_in_a_type_or_level_is_told_with_what_was_meant() -> None:
    policy = Policy.default()
    rules = {"privcy" if name == "privacy" else name: rule for name, rule in policy.rules.items()}
    with pytest.raises(PolicyError, match=r"unknown type 'privcy'\. Did you mean 'privacy'"):
        policy.model_copy(update={"rules": rules}).check(DEFAULT_TAXONOMY)
    with pytest.raises(PolicyError, match=r"unknown level 'hihg'\. Did you mean 'high'"):
        policy.model_copy(update={"wording": {**policy.wording, "hihg": "x"}}).check(DEFAULT_TAXONOMY)
    with pytest.raises(PolicyError, match=r"got 'privcy'\. Did you mean 'privacy'"):
        policy.allow("privcy")
