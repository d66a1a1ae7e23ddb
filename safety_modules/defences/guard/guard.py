"""The guard (SafeVLM, arXiv 2405.13581): every image is judged first, then base, steered model or policy answer.

The vision tower runs once. Rows the base answers by itself (switched off, no image, judged clean, only logged) go
through the base with their own ids and padding, so they are bit-identical to the base on that sub-batch; or, with
`batch_mode="merged"`, through one batch with the risky rows, equal to the base up to rounding. Risky rows get safety
tokens, a hint and LoRA; a policy's `refuse` needs no language model at all.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field, model_validator

from safety_modules.backbones import Backbone
from safety_modules.backbones.generation import constraints, until_stop
from safety_modules.config import BaseSizes, LoraSettings, SafetyConfig
from safety_modules.defences.answer import Answer, Row
from safety_modules.defences.base import SEED, Answering, Defence, Settings
from safety_modules.defences.call import Call
from safety_modules.defences.guard.judge import judge, rows_of, with_views
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.defences.guard.steer import Sample, Steer, build_inputs
from safety_modules.errors import AttachError, ConfigError, GuardError
from safety_modules.mount.lora import Lora
from safety_modules.policy.policy import Policy, Rule, check_policy
from safety_modules.policy.scores import LIMIT
from safety_modules.policy.verdict import Verdict, riskiest
from safety_modules.taxonomy import Taxonomy

REFUSAL = "I'm sorry, I can't help with that."
"""Of a guard in mode `external`: one sentence, and no word about why."""

BatchMode = Literal["split", "merged"]
"""How a batch that holds risky and other rows is answered: in parts (exact), or in one go (faster)."""
By = Literal["base", "steered", "policy"]
"""Who answers a row: the base, the steered language model, or the policy with a fixed text."""


def check_batch_mode(batch_mode: str) -> BatchMode:
    """The mode, if it is one. Raises GuardError."""
    for known in get_args(BatchMode):
        if batch_mode == known:
            return known
    raise GuardError(
        f"no such batch mode: expected {' or '.join(get_args(BatchMode))}, got {batch_mode!r}. Check the spelling."
    )


Threshold = Annotated[float, Field(ge=-LIMIT, le=LIMIT)]
MOST_RULE_CHARACTERS = 500
"""Of each sentence of a rule that is saved: it becomes part of prompts and answers."""
TEMPERATURES = (0.01, 100)
Temperature = Annotated[float, Field(ge=TEMPERATURES[0], le=TEMPERATURES[1])]


class GuardSettings(Settings):
    """What is saved of a guard beside its tensors.

    Attributes:
        design: of modules and LoRA.
        thresholds: calibrated, per risk type, as log-odds; empty = not calibrated.
        temperature: the types' logits are divided by it; 1 = as trained.
        rules: the policy's rule for types it brings along; used where the user's policy has none.

    Raises:
        pydantic.ValidationError: thresholds or rules do not fit the taxonomy, or a rule's words cannot be used.
    """

    kind: Literal["guard"] = "guard"
    design: SafetyConfig = SafetyConfig()
    thresholds: dict[str, Threshold] = Field(default={})
    temperature: Temperature = 1.0
    rules: dict[str, Rule] = Field(default={})

    @property
    def lora_settings(self) -> LoraSettings | None:
        return self.design.lora

    @model_validator(mode="after")
    def _rules_fit(self) -> "GuardSettings":
        taxonomy = self.design.taxonomy
        for name, rule in self.rules.items():
            if name not in taxonomy.types:
                raise ValueError(f"rules name a type outside the taxonomy: {name[:80]!r}")
            unknown = [level for level in rule.wording if level not in taxonomy.levels]
            if unknown:
                raise ValueError(f"the rule of {name} has words for an unknown level: {unknown[0][:80]!r}")
            for text in (rule.title or "", rule.reason, rule.refusal or "", *rule.wording.values()):
                if len(text) > MOST_RULE_CHARACTERS or not text.isprintable():
                    raise ValueError(
                        f"the rule of {name} has words that cannot be used: expected at most {MOST_RULE_CHARACTERS} "
                        "printable characters on one line"
                    )
        return self

    @model_validator(mode="after")
    def _thresholds_fit(self) -> "GuardSettings":
        problem = thresholds_problem(self.design.taxonomy, self.design.first_types, self.thresholds)
        if problem:
            raise ValueError(problem)
        return self


@dataclass(frozen=True)
class Route:
    """Who answers a row, because of which verdict, and with what."""

    by: By
    verdict: Verdict | None = None
    steer: Steer = field(default_factory=Steer)
    refusal: str = ""

    def hinting(self, record: Row, hints: bool = True) -> "Route":
        """The same without its hint, where none is wanted or the row's prompt has one already."""
        keeps = hints and not record.hinted
        record.hinted = record.hinted or (keeps and self.steer.hint is not None)
        return self if keeps else replace(self, steer=replace(self.steer, hint=None))


class Guard(Defence):
    """Projector, tokens, head and LoRA on one base. Untrained until its tensors are loaded or trained.

    Args:
        backbone: the base.
        settings: design and calibration.
        seed: of the first weights.

    Attributes:
        mode: `gated` (a sample judged clean gets the base's own answer), `always` (every image gets tokens and
            LoRA), `external` (what is judged risky gets one fixed refusal: a classifier in front of the model), or
            `selective` (what is judged risky is left to the defences further in, which do not act on what is judged
            clean); at first the design's.
        hints: whether the language model is told about the risk; False for ablations.
        merge_lora: answer steered rows from merged copies of the linears (see `Lora.mounted`).

    Raises:
        AttachError: the LoRA finds no place, or the words were made for another tower.
        ConfigError: the design does not fit the base.
    """

    kind = "guard"
    settings_type = GuardSettings
    by_rows = True
    judges = True
    needs_training = True
    source = "SafeVLM, arXiv 2405.13581, and PSA-VLM, arXiv 2411.11543; code: Yingshui-Tan/PSA-VL"
    leaves_out = (
        "the published head, projector and width: preset `paper` has them; rows judged clean are left to the base"
    )
    modules: SafetyModules

    def __init__(self, backbone: Backbone, settings: GuardSettings | None = None, seed: int = SEED) -> None:
        super().__init__(backbone, settings)
        config = self.settings.design
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reset the accelerators'
            std = embedding_scale(backbone)
            self.modules = SafetyModules(config, backbone.sizes, lm_token_std=std).to(backbone.device).eval()
            self.lora = Lora(backbone.language_model, config.lora, backbone.lock) if config.lora is not None else None
        self.fingerprint = backbone.fingerprint()
        check_tower(backbone, config)
        self.trained = False
        self.mode: str = config.mode
        self.hints = True
        self.merge_lora = False
        self._thresholds: dict[str, float] = dict(self.settings.thresholds)
        self._temperature: float = self.settings.temperature
        self.rules: dict[str, Rule] = dict(self.settings.rules)

    @classmethod
    def shapes(cls, settings: GuardSettings, sizes: BaseSizes) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {name: tensor.shape for name, tensor in SafetyModules(settings.design, sizes).state_dict().items()}

    def current_settings(self) -> GuardSettings:
        now = {"thresholds": self.thresholds, "temperature": self.temperature, "rules": self.rules}
        return self.settings.model_copy(update={"design": self.config, **now})  # as it is: saving checks it

    def described(self) -> dict[str, Any]:
        return {**super().described(), "mode": self.mode, "hints": self.hints}

    def tensors_used(self) -> list[torch.Tensor]:
        if self.mode not in ("external", "selective"):
            return super().tensors_used()
        return [parameter for name, parameter in self.modules.named_parameters() if not name.startswith("lm_tokens.")]

    @property
    def config(self) -> SafetyConfig:
        """The design."""
        return self.modules.config

    @property
    def thresholds(self) -> dict[str, float]:
        """The calibrated threshold per risk type, a log-odds; empty = not calibrated.

        A copy; may be replaced as a whole.

        Raises:
            ConfigError: when replaced, by thresholds that could not be saved.
        """
        return dict(self._thresholds)

    @thresholds.setter
    def thresholds(self, thresholds: Mapping[str, float]) -> None:
        problem = thresholds_problem(self.config.taxonomy, self.config.first_types, thresholds)
        if problem:
            raise ConfigError(f"{problem}. Nothing was changed: correct them.")
        types = self.config.taxonomy.types
        self._thresholds = {name: float(thresholds[name]) for name in types if name in thresholds}

    @property
    def temperature(self) -> float:
        """What the types' logits are divided by before they are probabilities. May be replaced."""
        return self._temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        least, most = TEMPERATURES
        if not isinstance(temperature, Real) or not least <= temperature <= most:
            raise ConfigError(f"temperature not set: expected a number from {least} to {most}, got {temperature!r}.")
        self._temperature = float(temperature)

    def changed(self, **parts: Any) -> "Guard":
        """A guard on the same base with other parts: `modules`, `lora`, `thresholds`, `temperature`, `rules`."""
        other = copy.copy(self)
        for name in ("modules", *parts):  # thresholds are checked against the modules' types
            setattr(other, name, parts.get(name, getattr(self, name)))
        return other

    def policy_for(self, policy: Policy) -> Policy:
        """This policy; types it has no rule for get the one the guard brings.

        Raises:
            PolicyError: not a policy, or one that does not fit the taxonomy.
        """
        completed = check_policy(policy).completed(self.rules)
        completed.check(self.config.taxonomy)
        return completed

    def default_policy(self) -> Policy:
        return Policy.default(self.config.taxonomy, self.rules)

    def _check_calibrated(self, policy: Policy) -> None:
        """Refuse to act on cosines that were never held against pictures: sentences alone promise nothing."""
        missing = [
            name
            for name, rule in policy.rules.items()
            if rule.action in ("hint", "refuse") and rule.threshold is None and name not in self.thresholds
        ]
        if missing:
            raise GuardError(
                f"not enforced: expected calibrated thresholds for an adapter made of words, got none for "
                f"{', '.join(missing)}. Calibrate it (safety-modules calibrate ADAPTER --benign FILE), or only log: "
                "action: log in the policy."
            )

    def around(self, call: Call, answer: Answering) -> Answer:
        call, routes = self._judged(call)
        rows = {by: [row for row, route in enumerate(routes) if route.by == by] for by in get_args(By)}
        if len(rows["base"]) == len(call):
            return answer(call)
        if call.choices.get("batch_mode") == "merged" and rows["steered"]:
            rows["base"], rows["steered"] = [], sorted(rows["base"] + rows["steered"])
        steers = [routes[row].steer for row in rows["steered"]]
        refusals = [routes[row].refusal for row in rows["policy"]]
        return call.divided(  # the base first: sampling then starts from the caller's random state
            [
                (rows["base"], answer),
                (rows["steered"], lambda part: answer(self._steered(part, steers))),
                (rows["policy"], lambda part: refused(part, refusals)),
            ]
        )

    def prepared(self, call: Call) -> Call:
        """Judged, with risky and other rows in one batch; rows that the policy refuses are left out."""
        call, routes = self._judged(call)
        rows = not_refused(call, routes)
        kept, steers = call.take(rows), [routes[row].steer for row in rows]
        if not any(call.records[row].steered for row in kept.rows):
            return kept
        return self._steered(kept, steers)

    def _judged(self, call: Call) -> tuple[Call, list[Route]]:
        """The call with its images' features, and who answers each row; verdicts are noted in its records."""
        on = self.on(call)
        routes = [Route("base") for _ in on]
        if not any(on):
            return call, routes
        policy = self.policy_for(call.choices["policy"])
        if self.config.words is not None:
            self._check_calibrated(policy)
        call = call.encoded(None if self.config.words is None else self.backbone.encode_with_class)
        rows = [row for row, judged in enumerate(on) if judged]
        images = call.images_of(rows)
        prompts = [(call.origin or call).prompt(row) for row in rows for _ in range(call.counts[row])]
        places = [place for row in rows for place in range(call.counts[row])]
        found = iter(judge(self, self._seen(call, rows, images), prompts, policy, places))
        constrained = bool(constraints(self.backbone.model, call.kwargs))
        for row in rows:
            record, verdicts = call.records[call.rows[row]], [next(found) for _ in range(call.counts[row])]
            record.judged(verdicts)
            routes[row] = route(verdicts, policy, self.mode, constrained).hinting(record, self.hints)
            record.steered = routes[row].by == "steered"
        return self._selecting(call, routes, policy) if self.mode == "selective" else (call, routes)

    def _selecting(self, call: Call, routes: list[Route], policy: Policy) -> tuple[Call, list[Route]]:
        """Rows judged risky are left to the defences further in, by the policy's refusal where none is on; from the
        others that were judged these are taken away.
        """
        off = {row for row, on, one in zip(call.rows, self.on(call), routes, strict=True) if on and one.by == "base"}
        switches = {
            name: [on and (name == self.kind or row not in off) for row, on in enumerate(flags)]
            for name, flags in call.switches.items()
        }
        for place, row in enumerate(call.rows):
            record, defended = call.records[row], any(switches[name][row] for name in switches if name != self.kind)
            if routes[place].by == "steered":
                record.steered = record.hinted = False
                known = route(record.image_verdicts, policy, self.mode, constrained=True)
                routes[place] = Route("base", known.verdict) if defended else known
        return replace(call, switches=switches), routes

    def _seen(self, call: Call, rows: Sequence[int], images: list[int]) -> torch.Tensor:
        """Features of these images, which are those of these rows, as the head is to see them."""
        assert call.vision is not None and call.pixels is not None
        vision, looks = rows_of(call.vision, images), self.modules.looks
        if looks == 1:
            return vision
        for row in rows:
            call.records[call.rows[row]].usage.tower_runs += (looks - 1) * call.counts[row]
        return with_views(self.backbone, self.modules, call.pixels[images], vision)

    def _steered(self, call: Call, steers: Sequence[Steer]) -> Call:
        """Prompts with [s2 ; h_i], hint and LoRA on the rows that are steered; nothing added to others."""
        samples = [Sample(call.prompt(row), call.features_of(row), steer) for row, steer in enumerate(steers)]
        inputs = build_inputs(self.backbone, self.modules.lm_tokens(), samples)
        steered = call.reworded(inputs.input_ids, inputs.attention_mask, inputs.features)
        if self.lora is None:
            return steered
        return steered.mounting(self._with_lora, [call.records[row].steered for row in call.rows])

    def _with_lora(self, rows: list[bool]) -> Any:
        assert self.lora is not None
        return self.lora.mounted(any(rows), rows, self.merge_lora)


def not_refused(call: Call, routes: Sequence[Route]) -> list[int]:
    """The rows that the language model has to answer; the others' refusals are noted in their records."""
    for row, one in zip(call.rows, routes, strict=True):
        call.records[row].refusal = one.refusal or None
    return [row for row, one in enumerate(routes) if one.by != "policy"]


def refused(call: Call, refusals: Sequence[str]) -> Answer:
    """The policy's refusals, a text for each row, up to the caller's stop strings; no language model."""
    backbone, stops = call.backbone, call.option("stop_strings")
    for row, text in zip(call.rows, refusals, strict=True):
        call.records[row].refusal = text
    return call.fixed_answer(
        [until_stop(backbone.processor.tokenizer, backbone.answer_ids(text), stops) for text in refusals]
    )


def embedding_scale(backbone: Backbone) -> float:
    """Standard deviation of the language model's input embeddings, at which tokens beside them start."""
    some = torch.arange(0, backbone.sizes.vocab_size, max(1, backbone.sizes.vocab_size // 1000))
    return float(backbone.embed_text(some[None]).float().std())


def thresholds_problem(taxonomy: Taxonomy, needed: Sequence[str], thresholds: Mapping[str, float]) -> str | None:
    """Why these cannot be an adapter's thresholds, or None."""
    if not set(thresholds) <= set(taxonomy.types) or (thresholds and not set(needed) <= set(thresholds)):
        return (
            f"thresholds do not match the taxonomy: expected one for each of {', '.join(needed)} "
            f"(or none at all), got {', '.join(thresholds)}"
        )
    bad = [
        f"{name} {value!r}"
        for name, value in thresholds.items()
        if not isinstance(value, Real) or not -LIMIT <= value <= LIMIT
    ]
    if bad:
        return (
            f"thresholds no score can be compared with: expected log-odds from {-LIMIT:.0f} to {LIMIT:.0f}, "
            f"got {', '.join(bad)}"
        )
    return None


def check_tower(backbone: Backbone, config: SafetyConfig) -> None:
    """Refuse words of another tower: their head looks behind its last layer, which the fingerprint leaves out.

    Raises:
        AttachError: it is not the tower that the adapter was made for, to the last layer.
    """
    if config.words is not None and (got := backbone.tower_digest()) != config.words.tower:
        raise AttachError(
            f"words of another tower: expected a vision tower with digest {config.words.tower[:16]}, got {got[:16]} "
            "(other weights, or quantised). Make the adapter anew for this base (safety-modules train --words), with "
            "its tower not quantised."
        )


def guard_among(defences: Sequence[Defence]) -> Guard:
    """The one that judges images. Raises GuardError where there is none."""
    for one in defences:
        if isinstance(one, Guard):
            return one
    kinds = ", ".join(one.kind for one in defences)
    raise GuardError(f"no guard: expected one among the defences attached, got {kinds}. Attach with adapter=...")


def route(verdicts: Sequence[Verdict], policy: Policy, mode: str, constrained: bool = False) -> Route:
    """Who answers a row, given the verdicts on its images: the most severe one drives it.

    Args:
        verdicts: one per image; empty = nothing was judged.
        policy: whose words are used.
        mode: see `Guard.mode`.
        constrained: whether the caller vetoes or forces tokens, so that a steered model might be unable to refuse.
    """
    if not verdicts:
        return Route("base")
    driver = riskiest(verdicts)
    words = (driver.type, driver.level, driver.probabilities[driver.type])
    by_rule = driver.flagged and driver.action == policy.rules[driver.type].action  # else it is a picture from outside
    if mode == "external" and driver.action in ("hint", "refuse"):
        return Route("policy", driver, refusal=REFUSAL)
    if driver.action == "refuse" or (driver.action == "hint" and constrained):
        return Route("policy", driver, refusal=policy.refusal_text(*words) if by_rule else policy.outside_refusal)
    hint = None
    if driver.action == "hint":
        hint = policy.hint(*words) if by_rule else policy.outside_hint
    if mode == "always":
        return Route("steered", driver, Steer((True,) * len(verdicts), hint))
    if hint is None:
        return Route("base", driver)
    return Route("steered", driver, Steer(tuple(v.action == "hint" for v in verdicts), hint))
