"""Is one policy looser than another? Whether somebody may ask for it depends on that."""

import math
from collections.abc import Mapping

from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import ACTIONS
from safety_modules.taxonomy import Taxonomy


def looser(
    policy: Policy, than: Policy, taxonomy: Taxonomy, thresholds: Mapping[str, float], first_types: int | None = None
) -> list[str]:
    """Why a policy may do less about some picture than another one: a sentence each; empty = it never does.

    Not only a milder action or a higher threshold is looser. Of the rules that fire the most probable type wins, so a
    rule that begins to fire can take a picture away from another one whose action is stronger.

    Args:
        policy: the one that is asked for; both fit the taxonomy.
        than: the one it is compared with.
        taxonomy: whose types.
        thresholds: the adapter's calibrated threshold per type.
        first_types: how many of the types, the first ones, are of the first training; default: all.

    Does not cover: what words do, so all other words count as looser; nor which level of two equally strong rules.
    """
    new, old = (dict.fromkeys(taxonomy.types, math.inf) | p.limits(taxonomy, thresholds) for p in (policy, than))
    found = []
    for type in taxonomy.types:
        before, now = than.rules[type], policy.rules[type]
        if _strength(policy, type) < _strength(than, type):
            found.append(f"{type}: action {now.action}, not {before.action}.")
        elif new[type] > old[type]:
            found.append(f"{type}: threshold {new[type]:.2f}, above {old[type]:.2f}.")
        if now.model_copy(update={"action": before.action, "threshold": before.threshold}) != before:
            found.append(f"{type}: words of its own.")
    first = taxonomy.types[:first_types]
    # A rule's risk is that of its type and of all less probable ones: all of it for the most probable type, and for any
    # other one at most what is left where all types are equally probable.
    share = (len(first) - 1) / len(first)
    for type in first:
        covered = [
            other
            for other in first
            if other != type
            and new[type] < old[type]
            and _risk(old[other]) < share * _risk(old[type])
            and _strength(than, other) > _strength(policy, type)
        ]
        found += [
            f"{type}: fires earlier and, with action {policy.rules[type].action}, may win over {other}."
            for other in covered
        ]
    if policy.level_threshold > than.level_threshold:
        found.append(f"level_threshold: {policy.level_threshold:.2f}, above {than.level_threshold:.2f}.")
    acts = than.outside != "log"
    if ACTIONS.index(policy.outside) < ACTIONS.index(than.outside):
        found.append(f"outside: action {policy.outside}, not {than.outside}.")
    elif acts and policy.outside_significance < than.outside_significance:
        found.append(f"outside_significance: {policy.outside_significance:g}, below {than.outside_significance:g}.")
    words = [(one.wording, one.refusal, one.outside_hint, one.outside_refusal) for one in (policy, than)]
    if words[0] != words[1]:
        found.append("words of its own.")
    return found


def _risk(threshold: float) -> float:
    """The probability that these log-odds are."""
    return 1 / (1 + math.exp(-threshold))


def _strength(policy: Policy, type: str) -> int:
    return ACTIONS.index(policy.rules[type].action)
