"""`gated` and `always`: this package's modules, with tokens and LoRA on what is judged risky, or on every picture."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal

from safety_modules.adapter.format import CONFIG_FILE, LORA_CONFIG_FILE, LORA_FILE, SAFETY_FILE
from safety_modules.adapter.hub import find_adapter
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.attach.fit import fit_adapter
from safety_modules.backbones import find_backbone
from safety_modules.defences.guard.plan import RowPlan, plan_row
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.systems.asking import Question, Said, ask, questions_of
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import Verdict

FILES = (CONFIG_FILE, SAFETY_FILE, LORA_CONFIG_FILE, LORA_FILE)


class Guarded:
    """A base with an adapter. The modules are on the model only while it answers, so that systems may take turns.

    Args:
        model: the base, with nothing attached.
        processor: its processor.
        adapter: folder or hub id.
        mode: `gated` or `always`, whatever the adapter's own.
        policy: what to do about verdicts; default: Policy.default().

    Raises:
        AttachError: the base is not supported.
        AdapterError: the adapter is refused.
    """

    source = "this package"
    leaves_out = ""

    def __init__(
        self,
        model: Any,
        processor: Any,
        adapter: str | PathLike[str],
        mode: Literal["gated", "always"] = "gated",
        policy: Policy | None = None,
    ) -> None:
        self.name: str = mode
        self.model, self.processor = model, processor
        self.folder = folder = find_adapter(adapter)
        backbone = find_backbone(model, processor)
        fitted = fit_adapter(backbone, folder)
        fitted.config = fitted.config.model_copy(update={"mode": mode})
        self.attachment = SafetyAttachment(backbone, fitted, policy or Policy.default())
        self.digest = hashlib.sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
        self.extra_mb = sum((folder / name).stat().st_size for name in FILES if (folder / name).is_file()) / 1e6
        self.extra_parameters = sum(parameter.numel() for parameter in self.attachment.parameters())

    def answer(self, cases: Sequence[Case], max_new_tokens: int) -> list[Reply]:
        """Greedy answers to a batch of cases, in order."""
        questions = questions_of(cases)
        with self._attached():
            answers = ask(self.model, self.processor, questions, max_new_tokens, self.generate)
        return [self._reply(question, said) for question, said in zip(questions, answers, strict=True)]

    def generate(self, **inputs: Any) -> Any:
        """The guarded call."""
        return self.attachment.generate(**inputs)

    def plan(self, verdicts: Sequence[Verdict]) -> RowPlan:
        """Who answered a row with these verdicts, and with what."""
        return plan_row(verdicts, self.attachment.policy, self.attachment.config.mode)

    @contextmanager
    def _attached(self) -> Iterator[None]:
        self.attachment.install()
        try:
            yield
        finally:
            self.attachment.detach()

    def _reply(self, question: Question, said: Said) -> Reply:
        plan = self.plan(said.verdicts)
        ran = plan.by != "policy"
        return Reply(
            text=said.text,
            prompt_tokens=self._prompt_tokens(said, plan) if ran else 0,
            new_tokens=said.new_tokens if ran else 0,
            tower_runs=len(question.images),
            lm_passes=int(ran),
            **judged(plan.verdict),
        )

    def _prompt_tokens(self, said: Said, plan: RowPlan) -> int:
        """Of the prompt that the language model really got."""
        ids, hint = said.prompt, plan.steer.hint
        if hint is not None:
            ids = self.attachment.backbone.insert_hint(ids, hint)
        return len(ids) + sum(plan.steer.tokens) * self.attachment.config.num_lm_tokens

    def describe(self) -> dict[str, Any]:
        """What identifies it in a report: adapter, mode, thresholds, policy."""
        policy = self.attachment.policy.model_dump_json()
        return {
            "system": self.name,
            "mode": self.attachment.config.mode,
            "adapter": self.digest,
            "thresholds": dict(self.attachment.thresholds),
            "temperature": self.attachment.temperature,
            "policy": hashlib.sha256(policy.encode()).hexdigest(),
        }

    def close(self) -> None:
        """Leave the base as it was before; it is so between any two calls."""
        self.attachment.detach()


def judged(verdict: Verdict | None) -> dict[str, Any]:
    """The fields of a reply that say what the system took the case for; none where nothing was judged."""
    if verdict is None:
        return {}
    return {"risk": verdict.risk, "flagged": verdict.flagged, "type": verdict.type}
