"""Who may ask, and what: a file of keys (only their digests), each with what it may beyond the operator's policy."""

import hashlib
import hmac
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.errors import ConfigError, PolicyError, validation_problems
from safety_modules.io.strict import load_yaml, without_controls
from safety_modules.policy.looser import looser
from safety_modules.policy.policy import Policy, Rule
from safety_modules.serving.errors import RequestRefused
from safety_modules.serving.schemas import SafetyAsked

Right = Literal["off", "report", "looser"]
"""`off`: the base's own answer, unjudged. `report`: judged, but the base's own answer. `looser`: a policy of one's own
that may do less than the operator's; stricter ones need no right."""
Mode = Literal["off", "report", "enforce"]


class Key(BaseModel):
    """One key: who has it, its SHA-256 in hex, and what it may."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    may: frozenset[Right] = frozenset()


class Access(BaseModel):
    """Who may ask.

    Attributes:
        keys: without one, everybody who reaches the server may ask.
        anonymous: what those may who have no key, where there are no keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...] = ()
    anonymous: frozenset[Right] = frozenset()

    @field_validator("keys")
    @classmethod
    def _different(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        for what in ("name", "sha256"):
            if len({getattr(key, what) for key in keys}) < len(keys):
                raise ValueError(f"two keys with one {what}")
        return keys

    @classmethod
    def from_yaml(cls, path: str | PathLike[str]) -> "Access":
        """Read the file. Raises ConfigError naming every problem."""
        try:
            return cls.model_validate(load_yaml(Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"keys not read: expected a YAML file, got {error}. Check the path.") from error
        except ValidationError as error:
            lines = "".join(f"\n  - {line}" for line in validation_problems(error, model=cls))
            raise ConfigError(f"keys {path} refused:{lines}") from error

    def caller(self, authorization: str | None) -> "Caller":
        """Who sent this header. Raises RequestRefused (401)."""
        if not self.keys:
            return Caller("anonymous", self.anonymous)
        scheme, _, given = (authorization or "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # Every key is compared, and each in constant time: how long it takes says nothing.
        known = [key for key in self.keys if hmac.compare_digest(key.sha256, digest)]
        if scheme.lower() != "bearer" or not known:
            raise RequestRefused(
                401,
                "not answered: expected a header `Authorization: Bearer KEY` with a key of this server, got "
                f"{'another one' if authorization else 'none'}. Ask who runs it.",
                "invalid_api_key",
            )
        return Caller(known[0].name, known[0].may)


class Caller(NamedTuple):
    """Who asks, and what they may."""

    name: str
    may: frozenset[Right]


@dataclass(frozen=True)
class Chosen:
    """How a request is answered.

    Attributes:
        mode: off, report or enforce.
        policy: which says what a verdict leads to; None = the server's own.
        digest: of the policy, before `report` takes its actions away.
    """

    mode: Mode
    policy: Policy
    digest: str


class Choices:
    """Decides how a request is answered: by what it asks for, who asks, and the operator's policy.

    Args:
        safety: whose policy is the operator's.
    """

    def __init__(self, safety: SafetyAttachment) -> None:
        self._safety = safety
        self._enforced = Chosen("enforce", safety.policy, safety.policy.digest)

    @property
    def operators(self) -> Chosen:
        """What those get who ask for nothing."""
        return self._enforced

    def chosen(self, asked: SafetyAsked | None, caller: Caller) -> Chosen:
        """How it is answered.

        Raises:
            RequestRefused: the caller may not (403), or the policy is none (400).
        """
        if asked is None:
            return self._enforced
        if asked.mode != "enforce":
            self._check(caller, asked.mode, f"safety.mode {asked.mode!r}", "safety.mode")
        policy = self._enforced.policy
        if asked.policy is not None:
            policy = self._own(asked, caller)
        digest = policy.digest
        return Chosen(asked.mode, only_reported(policy) if asked.mode == "report" else policy, digest)

    def _own(self, asked: SafetyAsked, caller: Caller) -> Policy:
        guard, operators = self._safety.guard, self._enforced.policy
        try:
            policy = self._safety.policy_for(operators.changed(asked.policy or {}))
        except PolicyError as error:
            message = f"not answered: expected changes to a policy, got others: {' '.join(str(error).split())}"
            raise RequestRefused(400, without_controls(message), "invalid_policy", "safety.policy") from error
        reasons = looser(policy, operators, guard.config.taxonomy, guard.thresholds, len(guard.config.first_types))
        if reasons:
            self._check(caller, "looser", f"one that may do less ({' '.join(reasons[:3])})", "safety.policy")
        return policy

    def _check(self, caller: Caller, right: Right, got: str, parameter: str) -> None:
        if right not in caller.may:
            raise RequestRefused(
                403,
                f"not answered: expected a request within the operator's policy, got {got}, which {caller.name} may "
                f"not ask for. Leave it out, or ask who runs this server for the right {right!r}.",
                "not_allowed",
                parameter,
            )


def only_reported(policy: Policy) -> Policy:
    """The policy without consequences: what would be hinted or refused is logged."""
    logged = {"action": "log"}
    rules: dict[str, Rule] = {
        type: rule.model_copy(update=logged) if rule.action in ("hint", "refuse") else rule
        for type, rule in policy.rules.items()
    }
    return policy.model_copy(update={"rules": rules, "outside": "log"})
