"""adapter_config.json of versions 1 to 4: one guard, its settings among the other keys."""

from pydantic import Field, model_validator

from safety_modules.adapter.format import AdapterConfig, Keys, PartRecord
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.guard import Guard, GuardSettings, Temperature, Threshold
from safety_modules.policy.policy import Rule
from safety_modules.policy.scores import log_odds

NEWEST_VERSION = 4
SINCE = {"temperature": 2, "rules": 2, "safety.ensemble": 3}
"""First version of the keys that version 1 does not have."""
SURE = 1 - 2**-24
"""The most that a probability in float32 differs from 1: what a threshold of 1 meant before version 4."""


class GuardConfig(Keys):
    """What such a file says.

    Args:
        safety: the guard's design.
        thresholds: log-odds; before version 4 probabilities.
        temperature: see `GuardSettings`, as the next one.
        rules: not in version 1.
    """

    safety: SafetyConfig
    thresholds: dict[str, Threshold]
    temperature: Temperature = 1.0
    rules: dict[str, Rule] = Field(default={})

    @model_validator(mode="after")
    def _keys_of_the_version(self) -> "GuardConfig":
        if self.format_version == 1 and self.safety.added:
            raise ValueError("format_version 1 does not know the key 'safety.added'")
        given = self.model_fields_set | {f"safety.{name}" for name in self.safety.model_fields_set}
        for name, version in SINCE.items():
            if (name in given) != (self.format_version >= version):
                does = "does not know" if name in given else "needs"
                raise ValueError(f"format_version {self.format_version} {does} the key {name!r}")
        # There was one set before there was a word for it, and the default head was another.
        then = {"ensemble": 1, "query": "concept"}
        design = {name: value for name, value in then.items() if f"safety.{name}" not in given}
        return self.model_copy(update={"safety": self.safety.model_copy(update=design)}) if design else self

    @model_validator(mode="after")
    def _thresholds_as_log_odds(self) -> "GuardConfig":
        if self.format_version >= 4:
            return self
        own = {name: rule.threshold for name, rule in self.rules.items() if rule.threshold is not None}
        for name, value in (*self.thresholds.items(), *own.items()):
            if not 0 <= value <= 1:
                raise ValueError(f"the threshold of {name[:80]!r} is not a probability: {value}")
        thresholds = {name: self._score(name, value) for name, value in self.thresholds.items()}
        rules = {
            name: rule.model_copy(update={"threshold": self._score(name, own[name])}) if name in own else rule
            for name, rule in self.rules.items()
        }
        return self.model_copy(update={"thresholds": thresholds, "rules": rules})

    def _score(self, name: str, probability: float) -> float:
        """The log-odds of a threshold; a branch's were divided by the temperature then, and are not now."""
        score = log_odds(min(probability, SURE))
        return score * self.temperature if name in self.safety.added else score

    def in_parts(self) -> AdapterConfig:
        """The same as later versions say it. Raises pydantic.ValidationError."""
        settings = GuardSettings(
            design=self.safety, thresholds=self.thresholds, temperature=self.temperature, rules=self.rules
        )
        guard = PartRecord(kind=Guard.kind, settings=settings, depends_on=Guard.depends_on(settings))
        return AdapterConfig(parts=(guard,), **{name: getattr(self, name) for name in Keys.model_fields})
