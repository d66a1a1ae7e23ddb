"""Policies that make every picture risky, or none, whatever an untrained head says."""

from safety_modules.policy import Policy
from safety_modules.policy.scores import LIMIT


def flag_everything(action: str = "hint") -> Policy:
    """Every picture gets this action."""
    policy = Policy.default()
    for type in policy.rules:
        policy = policy.with_rule(type, threshold=-LIMIT, action=action)
    return policy


def flag_nothing() -> Policy:
    """Every picture is answered by the base."""
    policy = Policy.default()
    return policy.allow(*policy.rules)
