"""One guarded call, top down: features -> verdicts -> plan -> language model -> stitched output.

The vision tower runs once. Rows the base answers by itself (switched off, no image, judged clean, only
logged) go through the base with their own ids and padding, so they are bit-identical to the base on that
sub-batch; or, with `batch_mode="merged"`, through one batch with the risky rows, equal to the base up to rounding.
Risky rows get safety tokens, a hint and LoRA; a policy's `refuse` needs no language model at all.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from transformers.utils import ModelOutput

from safety_modules.backbones.llava_backbone import is_guarded
from safety_modules.defences.guard.answers import Call, answer_base, answer_guarded, answer_policy
from safety_modules.defences.guard.plan import CallPlan, plan_call
from safety_modules.defences.guard.stitch import as_guarded, stitch
from safety_modules.errors import GuardError
from safety_modules.policy.policy import Policy

if TYPE_CHECKING:
    from safety_modules.attach.attachment import SafetyAttachment

BatchMode = Literal["split", "merged"]
"""How a batch that holds risky and other rows is answered: in parts (exact), or in one go (faster)."""


def check_batch_mode(batch_mode: str) -> BatchMode:
    """The mode, if it is one. Raises GuardError."""
    for known in get_args(BatchMode):
        if batch_mode == known:
            return known
    raise GuardError(
        f"no such batch mode: expected {' or '.join(get_args(BatchMode))}, got {batch_mode!r}. Check the spelling."
    )


def guarded_generate(
    attachment: "SafetyAttachment",
    kwargs: dict[str, Any],
    safety: bool | Sequence[bool],
    policy: Policy,
    batch_mode: BatchMode,
) -> Any:
    """Generate, with every image judged first.

    Args:
        attachment: what is attached to the model. The caller holds its lock.
        kwargs: of the model's `generate`.
        safety: whether to guard, for all rows or one by one.
        policy: what to do about verdicts.
        batch_mode: how a mixed batch is answered.

    Returns:
        As the base's `generate`: (B x n, T + new) ids starting with the prompts as passed in, or, with
        `return_dict_in_generate=True`, a GuardedOutput.

    Raises:
        GuardError: the call hides its images, or asks for something a guarded call cannot give.
        PromptError: image tokens and images do not match, or a risky prompt has no place for the hint.
    """
    if kwargs.get("assistant_model") is not None and is_guarded(kwargs["assistant_model"]):
        raise GuardError(
            "call not guarded: expected an assistant_model without safety, got a guarded one. Detach it: the model "
            "checks every token it proposes."
        )
    plan = plan_call(attachment, kwargs, safety, policy)
    call = Call(attachment, kwargs, plan)
    if len(plan.answered_by("base")) == len(plan.rows):
        return _untouched(call)
    parts = _parts(plan, batch_mode)
    _check_options(call, parts=len(parts))
    answers = [answer(call, rows) for answer, rows in parts]
    n, beams = call.option("num_return_sequences", 1), call.option("num_beams", 1)
    output = stitch(plan.batch.ids, answers, n=n, beams=beams if beams > 1 else n, pad=call.pad_id)
    if not call.option("return_dict_in_generate", False):
        return output.sequences
    return as_guarded(output, plan.verdicts, plan.image_verdicts)


def _untouched(call: Call) -> Any:
    """The base's answer to the untouched call; an output object gets the verdicts."""
    plan = call.plan
    with call.by_base(range(len(plan.rows))):
        output = call.attachment.backbone.base_generate(**call.kwargs)
    return as_guarded(output, plan.verdicts, plan.image_verdicts) if isinstance(output, ModelOutput) else output


def _parts(plan: CallPlan, batch_mode: BatchMode) -> list[tuple[Any, list[int]]]:
    """How each part of the batch is answered, and its rows."""
    base, steered, refused = (plan.answered_by(by) for by in ("base", "steered", "policy"))
    if batch_mode == "merged" and steered:
        base, steered = [], plan.answered_by("base", "steered")
    # The base first: sampling then starts from the caller's random state, as it would without a guard.
    parts = [(answer_base, base), (answer_guarded, steered), (answer_policy, refused)]
    return [(answer, rows) for answer, rows in parts if rows]


def _check_options(call: Call, parts: int) -> None:
    """Refuse what cannot be given once rows are steered, or answered in different ways."""
    given = {name: value for name, value in call.kwargs.items() if value is not None}
    unmovable = ("past_key_values", "custom_generate", "position_ids")
    problems: list[str] = [name for name in unmovable if name in given]
    problems += [name for name in ("output_attentions", "output_hidden_states") if call.option(name, False)]
    rows = len(call.plan.rows)
    problems += [
        name
        for name, value in call.options.items()
        if isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) == rows
    ]
    if "streamer" in given and parts > 1:
        problems.append("a streamer for rows that are not answered together")
    if problems:
        raise GuardError(
            "risky image not answered: expected a call whose rows can be answered one way or another, got "
            f"{', '.join(problems)}, which does not fit steered prompts. Leave it out, or pass safety=False."
        )
