"""The default design without the hint: what is judged risky gets tokens and LoRA, and no words. For ablations."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from safety_modules.defences.guard.answers import Call, answer_base, answer_guarded
from safety_modules.defences.guard.plan import RowPlan, plan_call
from safety_modules.defences.guard.stitch import as_guarded, stitch
from safety_modules.evaluation.systems.guarded import Guarded
from safety_modules.policy.verdict import Verdict


class Unhinted(Guarded):
    """As `Guarded` in mode `gated`, whose policy has no place for "a hint of no words"."""

    leaves_out = "the hint"

    def plan(self, verdicts: Sequence[Verdict]) -> RowPlan:
        return _without_hint(super().plan(verdicts))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "hint": False}

    def generate(self, **inputs: Any) -> Any:
        """The guarded call, step by step, with other sequences for the risky rows."""
        safety = self.attachment
        with safety.inference():
            plan = plan_call(safety, inputs, True, safety.policy)
            call = Call(safety, inputs, replace(plan, rows=[_without_hint(row) for row in plan.rows]))
            parts = [(answer_base, plan.answered_by("base")), (answer_guarded, plan.answered_by("steered"))]
            answers = [answer(call, rows) for answer, rows in parts if rows]
            output = stitch(plan.batch.ids, answers, n=1, beams=1, pad=call.pad_id)
        return as_guarded(output, plan.verdicts, plan.image_verdicts)


def _without_hint(plan: RowPlan) -> RowPlan:
    return replace(plan, steer=replace(plan.steer, hint=None))
