"""Policy: what to do about a verdict, per risk type. Data, not code; switching one type off touches no other."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from safety_modules.errors import PolicyError, did_you_mean, validation_problems
from safety_modules.io.strict import load_yaml
from safety_modules.policy.decisions import Decisions
from safety_modules.policy.scores import LIMIT, Judgements, log_odds, probability
from safety_modules.policy.verdict import ACTIONS, Action, Verdict
from safety_modules.taxonomy import Taxonomy

PLACES = ("type", "level", "reason", "probability")
"""What a hint or refusal may name: the rule's title, the level acted on, the rule's reason, the type's probability."""

_PLACE = re.compile(r"\{([^{}]*)\}")


def check_sentence(text: str, places: Sequence[str] = PLACES) -> str:
    """The text, if every place in it is known. Raises ValueError for others and for braces that make no place."""
    unknown = [name for name in _PLACE.findall(text) if name not in places]
    known = ", ".join(f"{{{name}}}" for name in places)
    if unknown:
        raise ValueError(f"unknown place {{{unknown[0]}}}; a sentence may use {known}")
    check_plain(_PLACE.sub("", text), f"a sentence may use {known}")
    return text


def check_plain(text: str, instead: str = "it stands in sentences, and is none with places itself") -> str:
    """The text, if there are no braces in it. Raises ValueError."""
    if "{" in text or "}" in text:
        raise ValueError(f"stray brace in {text!r}; {instead}")
    return text


def fill(text: str, values: Mapping[str, str]) -> str:
    """The sentence with its places filled."""
    # Own substitution, not str.format: a policy file must not reach into attributes.
    return _PLACE.sub(lambda match: values[match[1]], text).strip()


def _score(value: Any) -> Any:
    """A threshold as people write it: "90 %" is 2.197."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not text.endswith("%") or not 0 < percent < 100:
        raise ValueError(f"expected a log-odds, or a probability such as '90 %', got {value!r}")
    return log_odds(percent / 100)


Probability = Annotated[float, Field(ge=0, le=1)]
Significance = Annotated[float, Field(gt=0, lt=1)]
Threshold = Annotated[float, BeforeValidator(_score), Field(ge=-LIMIT, le=LIMIT, allow_inf_nan=False)]
Sentence = Annotated[str, AfterValidator(check_sentence)]
Plain = Annotated[str, AfterValidator(check_plain)]


class Rule(BaseModel):
    """What to do about one risk type.

    Args:
        action: allow (switched off), log, hint or refuse.
        threshold: score from which the rule fires (see `Policy`), a log-odds or a probability ("90 %"); None = the
            adapter's calibrated threshold, or the policy's default.
        title: what sentences call the type; default: its name.
        reason: one sentence for {reason}.
        wording: hint per level; where a level is missing, the policy's.
        refusal: answer when the action is `refuse`; None = the policy's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action = "hint"
    threshold: Threshold | None = None
    title: Plain | None = None
    reason: Plain = ""
    wording: dict[str, Sentence] = {}
    refusal: Sentence | None = None


def default_rule(name: str) -> Rule:
    """A hint in the policy's wording; title: the name with spaces; reason: "It carries a risk of <title>."."""
    title = name.replace("_", " ")
    return Rule(action="hint", title=title, reason=f"It carries a risk of {title}.")


ANY_LEVEL = (
    "Note: this image carries a {level} risk of {type}. Be careful; decline if the answer could do harm and say why."
)
"""The default policy's hint for levels that the shipped file has no words for."""


class Policy(BaseModel):
    """A rule for every risk type.

    A rule fires when its score (`scores.rule_scores`) reaches its threshold and its action is not `allow`. Scores and
    thresholds are log-odds: 0 is as likely as not, 2.2 is 90 %, 4.6 is 99 %. Of the rules that fire, the most probable
    type wins; one that was added after the first training wins over those only where its action is stronger (refuse,
    hint, log), and where none of them fires. Nothing fired: the base model's own answer.

    The level that picks the wording is the highest one for which P(level or above | risky) reaches
    `level_threshold`: 0.5 is the median level; a lower number takes a doubtful level for a higher one.

    Args:
        rules: rule per risk type; must name exactly the taxonomy's types.
        default_threshold: for types with neither a threshold of their own nor a calibrated one.
        level_threshold: how probable a level, or a higher one, must be to be taken; 0 = always the highest.
        wording: hint per risky level, for rules without their own.
        refusal: refusal for rules without their own.
        outside: what to do about a picture unlike all that the head was trained on (`Verdict.outside`), which is no
            risk by itself: log (the verdict says so, no more), hint or refuse; the stronger of this and a rule wins.
        outside_significance: the p-value up to which a picture counts as one.
        outside_hint: the sentence for `hint`.
        outside_refusal: the answer for `refuse`.

    Raises:
        pydantic.ValidationError: unknown key, a threshold that no score reaches or all do, or an unknown place in a
            sentence (`PLACES`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: dict[str, Rule]
    default_threshold: Threshold = 0.0
    level_threshold: Probability = 0.5
    wording: dict[str, Sentence] = {}
    refusal: Sentence = "I'm sorry, I can't help with that. {reason}"
    outside: Literal["log", "hint", "refuse"] = "log"
    outside_significance: Significance = 0.01
    outside_hint: Plain = (
        "Note: this image is unlike those that the safety check knows. Be careful; decline if in doubt."
    )
    outside_refusal: Plain = "I'm sorry, I can't help with this image: I can't tell whether it is safe."

    @classmethod
    def default(cls, taxonomy: Taxonomy | None = None, rules: Mapping[str, Rule] | None = None) -> "Policy":
        """The policy in `safety_modules/data/policy.yaml`: every type gets a hint.

        Args:
            taxonomy: whose types and levels it is for; None = the shipped one.
            rules: for types that the file has none for; where these have none either, `default_rule`.
        """
        shipped = _shipped().model_copy(deep=True)  # whoever changes a dictionary in it changes only theirs
        if taxonomy is None:
            return shipped
        known = {**(rules or {}), **shipped.rules}
        own = {type: known.get(type) or default_rule(type) for type in taxonomy.types}
        wording = {level: shipped.wording.get(level, ANY_LEVEL) for level in taxonomy.risky_levels}
        return shipped.model_copy(update={"rules": own, "wording": wording})

    @classmethod
    def from_yaml(cls, path: str | PathLike[str]) -> "Policy":
        """Read a policy file. Raises PolicyError naming every problem."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyError(f"policy not read: expected a YAML file, got {error}. Check the path.") from error
        return cls._parse(text, str(path))

    @classmethod
    def _parse(cls, text: str, where: str) -> "Policy":
        try:
            found = load_yaml(text)
            _refuse_old_thresholds(found, where)
            return cls.model_validate(found)
        except yaml.YAMLError as error:
            raise PolicyError(f"policy {where} refused: expected YAML, got {error}. Correct the file.") from error
        except ValidationError as error:
            lines = "".join(f"\n  - {line}" for line in validation_problems(error, model=cls))
            raise PolicyError(f"policy {where} refused:{lines}") from error

    def allow(self, *types: str) -> "Policy":
        """A copy with these types switched off; all others stay as they are."""
        policy = self
        for type in types:
            policy = policy.with_rule(type, action="allow")
        return policy

    def with_rule(self, type: str, **changes: Any) -> "Policy":
        """A copy with one rule changed: `policy.with_rule("privacy", action="refuse", threshold="30 %")`.

        Raises:
            PolicyError: no rule for this type, or a change that is not valid.
        """
        old = self._rule(type)
        _refuse_old_thresholds({"rules": {type: changes}}, "changed")
        try:
            rule = Rule.model_validate({**old.model_dump(), **changes})
        except ValidationError as error:
            raise PolicyError(f"rule {type!r} refused: {' '.join(validation_problems(error, model=Rule))}") from error
        return self.model_copy(update={"rules": {**self.rules, type: rule}})

    def changed(self, changes: Mapping[str, Any]) -> "Policy":
        """A copy with these changes, in the form of a policy file; of a rule, what is not named stays as it is.

        Raises:
            PolicyError: a rule for an unknown type, or a change that is not valid.
        """
        rules = changes.get("rules", {})
        _refuse_old_thresholds(changes, "changed")
        if not isinstance(rules, Mapping) or not all(isinstance(rule, Mapping) for rule in rules.values()):
            raise PolicyError("policy changed refused: expected rules by type, each with its changes, got others.")
        policy = self
        for type, rule in rules.items():
            policy = policy.with_rule(type, **rule)
        try:
            return Policy.model_validate({**policy.model_dump(), **changes, "rules": policy.rules})
        except ValidationError as error:
            lines = "".join(f"\n  - {line}" for line in validation_problems(error, model=Policy))
            raise PolicyError(f"policy changed refused:{lines}") from error

    @property
    def digest(self) -> str:
        """What identifies it: SHA-256 of all it says, in hex."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def completed(self, rules: Mapping[str, Rule]) -> "Policy":
        """A copy with these rules for the types it has none for; itself where none is missing."""
        missing = {type: rule for type, rule in rules.items() if type not in self.rules}
        return self.model_copy(update={"rules": {**self.rules, **missing}}) if missing else self

    def check(self, taxonomy: Taxonomy) -> None:
        """Refuse a policy that does not fit the taxonomy.

        Raises:
            PolicyError: a type without a rule, a rule without a type, or a hint without words for a level.
        """
        problems = [f"no rule for type {t!r}." for t in taxonomy.types if t not in self.rules]
        missing = [t for t in taxonomy.types if t not in self.rules]
        problems += [
            f"rule for unknown type {t!r}.{did_you_mean(t, missing or taxonomy.types)}"
            for t in self.rules
            if t not in taxonomy.types
        ]
        for type, rule in self.rules.items():
            levels = {**self.wording, **rule.wording}
            problems += [
                f"wording for unknown level {level!r}.{did_you_mean(level, taxonomy.levels)}"
                for level in levels
                if level not in taxonomy.levels
            ]
            if rule.action == "hint":
                missing = [level for level in taxonomy.risky_levels if level not in levels]
                problems += [f"rule {type!r} has no hint for level {level!r}." for level in missing]
        if problems:
            lines = "".join(f"\n  - {problem}" for problem in dict.fromkeys(problems))
            raise PolicyError(f"policy does not fit the taxonomy:{lines}")

    def hint(self, type: str, level: str, probability: float | None = None) -> str:
        """The safe hint for a type and level. Raises PolicyError where the policy has no words for it."""
        rule = self._rule(type)
        text = rule.wording.get(level, self.wording.get(level))
        if text is None:
            raise PolicyError(f"no hint for {type!r}: expected words for level {level!r}, got none. Add them.")
        return self._render(text, type, level, probability)

    def refusal_text(self, type: str, level: str, probability: float | None = None) -> str:
        """The fixed answer of action `refuse`."""
        rule = self._rule(type)
        return self._render(rule.refusal or self.refusal, type, level, probability)

    def decide(
        self,
        type_probs: Sequence[float] | np.ndarray | torch.Tensor,
        level_probs: Sequence[float] | np.ndarray | torch.Tensor,
        taxonomy: Taxonomy,
        thresholds: Mapping[str, float] | None = None,
        attention: torch.Tensor | None = None,
        image_index: int = 0,
        added_levels: Sequence[Sequence[float]] | np.ndarray = (),
    ) -> Verdict:
        """The verdict on one image: `decisions` of a single row.

        Args:
            type_probs: (types + 1,), last is clean; as in `scores.Judgements`.
            level_probs: (levels,).
            taxonomy: names of both.
            thresholds: the adapter's calibrated threshold per type, if any.
            attention: (types, rows, columns), handed on.
            image_index: handed on.
            added_levels: (added, levels), by the branches of the taxonomy's last types.

        Raises:
            PolicyError: the policy or the probabilities do not fit the taxonomy, or one of them is not a number.
        """
        types, levels = (np.array([[float(p) for p in part]]) for part in (type_probs, level_probs))
        added = np.array([added_levels], np.float64) if len(added_levels) else np.zeros((1, 0, len(taxonomy.levels)))
        found = Judgements(types, levels, added, np.zeros((1, 0, 0), np.float32))
        return self.decisions(found, taxonomy, thresholds).check().verdict(0, attention, image_index)

    def decisions(
        self, found: Judgements, taxonomy: Taxonomy, thresholds: Mapping[str, float] | None = None
    ) -> Decisions:
        """The verdicts on N images, as arrays. Where a probability is not a number, no rule fires: see `finite`.

        Args:
            found: probabilities; `added_levels` by the branches of the taxonomy's last types.
            taxonomy: names of types and levels.
            thresholds: the adapter's calibrated threshold per type, if any.

        Raises:
            PolicyError: the policy or the probabilities do not fit the taxonomy.
        """
        self.check(taxonomy)
        types, levels, branches = found.types, found.levels, found.added_levels
        sizes = (("type", types, taxonomy.labels), *(("level", part, taxonomy.levels) for part in (levels, branches)))
        for what, part, names in sizes:
            if part.shape[-1] != len(names):
                raise PolicyError(
                    f"no verdict: expected {len(names)} {what} probabilities, got {part.shape[-1]}. Check the taxonomy."
                )
        limits, scores = self.limits(taxonomy, thresholds or {}), found.scores
        first = len(taxonomy.types) - branches.shape[1]
        finite = np.isfinite(types).all(1) & np.isfinite(levels).all(1)
        own = types
        if branches.size:
            finite &= np.isfinite(branches).all((1, 2))
            own = types.copy()
            own[:, first:-1] = -np.inf  # where none of the rules fires, an added type says nothing
        fired = (scores >= [limits.get(name, np.inf) for name in taxonomy.types]) & finite[:, None]
        flagged = fired.any(1)
        type, level, risk = own.argmax(1), levels.argmax(1), 1 - types[:, -1]
        action, at_least = np.zeros(len(types), int), np.zeros(len(types))
        rows = np.flatnonzero(flagged)
        if len(rows):
            actions = np.array([ACTIONS.index(self.rules[name].action) for name in taxonomy.types])
            type[rows] = winner = _winners(fired[rows], types[rows, :-1], actions, first)
            action[rows] = actions[winner]
            beside = rows[winner >= first]
            if len(beside):
                levels = levels.copy()
                levels[beside] = branches[beside, type[beside] - first]
                risk[beside] = np.maximum(risk[beside], types[beside, type[beside]])
            level[rows], at_least[rows] = self._levels(levels[rows])
        outside = np.full(len(types), np.nan) if found.outside is None else found.outside
        is_outside = outside <= self.outside_significance
        if self.outside != "log":
            action = np.where(is_outside, np.maximum(action, ACTIONS.index(self.outside)), action)
        decided = (scores, levels, finite, flagged, type, level, at_least, action, risk, is_outside)
        return Decisions(found, taxonomy, limits, self.level_threshold, *decided)

    def limits(self, taxonomy: Taxonomy, calibrated: Mapping[str, float]) -> dict[str, float]:
        """The score from which each rule fires; types that are switched off have none.

        Args:
            taxonomy: whose types, in order.
            calibrated: the adapter's thresholds, for rules without their own; a type may be missing.
        """
        found = {}
        for type in taxonomy.types:
            rule = self.rules[type]
            if rule.action != "allow":
                own = rule.threshold
                found[type] = calibrated.get(type, self.default_threshold) if own is None else own
        return found

    def _levels(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The level to act on and P(that level or above | risky), (N,) each, from the levels' probabilities."""
        at_least = levels[:, :0:-1].cumsum(1)[:, ::-1]
        total = at_least[:, :1]
        if not total.all():  # certain of "safe" while a type fires: nothing is known about the level, so the highest
            at_least, total = np.where(total == 0, 1, at_least), np.where(total == 0, 1, total)
        reached = at_least >= self.level_threshold * total
        highest = reached.shape[1] - 1 - reached[:, ::-1].argmax(1)
        return highest + 1, at_least[np.arange(len(highest)), highest] / total[:, 0]

    def _rule(self, type: str) -> Rule:
        if type not in self.rules:
            raise PolicyError(
                f"no such rule: expected one of {', '.join(self.rules)}, got {type!r}.{did_you_mean(type, self.rules)} "
                "Check the spelling."
            )
        return self.rules[type]

    def _render(self, text: str, type: str, level: str, probability: float | None) -> str:
        rule = self._rule(type)
        values = {
            "type": rule.title or type,
            "level": level,
            "reason": rule.reason,
            "probability": "unknown" if probability is None else f"{probability:.2f}",
        }
        return fill(text, values)


def _winners(fired: np.ndarray, types: np.ndarray, actions: np.ndarray, first: int) -> np.ndarray:
    """Of the types that fired (N, types) the one to act on (N,): an added one gives way, unless its action is stronger.

    `types` are their probabilities (N, types), `actions` those of their rules, `first` how many are not added.
    """
    own = fired if first == len(actions) else fired & (np.arange(len(actions)) < first)
    best: np.ndarray = np.where(own, types, -1).argmax(1)
    if own is fired:
        return best
    strength = np.where(fired & ~own, actions, -1)
    strongest = strength.max(1)
    beside = np.where(strength == strongest[:, None], types, -1).argmax(1)
    return np.where(strongest > np.where(own.any(1), actions[best], -1), beside, best)


def _refuse_old_thresholds(policy: Any, where: str) -> None:
    """PolicyError for thresholds that may be probabilities, as they were once: read as log-odds they would mislead."""
    if not isinstance(policy, Mapping):
        return
    rules = policy.get("rules")
    found = {"default_threshold": policy.get("default_threshold")}
    for name, rule in rules.items() if isinstance(rules, Mapping) else ():
        found[f"rules.{name}.threshold"] = rule.get("threshold") if isinstance(rule, Mapping) else None
    for name, value in found.items():
        if isinstance(value, float) and 0 < value < 1:
            raise PolicyError(
                f"policy {where} refused: {name}: expected a log-odds (0 is as likely as not, 2.2 is 90 %, 4.6 is 99 %)"
                f" or a probability with its sign, got {value}, which could be either. Write '{100 * value:g} %' for "
                f"the probability, '{100 * probability(value):.3g} %' for the log-odds."
            )


@cache
def _shipped() -> Policy:
    """Read once: parsing YAML takes a fifth of the time of attaching."""
    text = resources.files("safety_modules").joinpath("data", "policy.yaml").read_text(encoding="utf-8")
    return Policy._parse(text, "data/policy.yaml")


def check_policy(policy: Any) -> Policy:
    """The policy, if it is one. Raises PolicyError."""
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"no policy: expected a Policy, got {type(policy).__name__} {str(policy)[:60]!r}. Read a file with "
            "Policy.from_yaml(path); Policy.default() is the one that comes along."
        )
    return policy
