"""What is answered: OpenAI's shapes, with the verdicts in a field and in a header."""

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from safety_modules.policy.scores import probability
from safety_modules.policy.verdict import Verdict, riskiest
from safety_modules.serving.access import Chosen
from safety_modules.serving.answering import Answered

HEADER = "x-safety"


def safety_field(chosen: Chosen, verdicts: Sequence[Verdict], verdict: Verdict | None) -> dict[str, Any]:
    """The field `safety` of an answer.

    Args:
        chosen: mode and policy of the request.
        verdicts: on each of its pictures.
        verdict: the one that drove the answer; None = nothing was judged.
    """
    driver = None if verdict is None else verdict.to_dict()
    short = {name: driver and driver[name] for name in ("type", "level", "risk", "flagged", "action", "rule")}
    return {
        "mode": chosen.mode,
        "policy": chosen.digest,
        "judged": len(verdicts),
        **short,
        "verdicts": [one.to_dict() for one in verdicts],
    }


def header(field: Mapping[str, Any]) -> dict[str, str]:
    """The field without the verdicts one by one, as a header: JSON in ASCII."""
    return {HEADER: json.dumps({name: value for name, value in field.items() if name != "verdicts"})}


class Completion:
    """The shapes of one chat completion.

    Args:
        model: its name.
        prompt_tokens: image tokens counted.
    """

    def __init__(self, model: str, prompt_tokens: int) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._prompt_tokens = prompt_tokens
        self._common = {"id": self.id, "created": int(time.time()), "model": model}

    def usage(self, answered: Answered) -> dict[str, int]:
        """Tokens of prompt and answer."""
        found = {"prompt_tokens": self._prompt_tokens, "completion_tokens": answered.tokens}
        return {**found, "total_tokens": sum(found.values())}

    def whole(self, answered: Answered, safety: Mapping[str, Any]) -> dict[str, Any]:
        """All at once."""
        refusal = answered.text if answered.judged.refusal else None
        message = {"role": "assistant", "content": answered.text, "refusal": refusal}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answered.finish}
        return {
            **self._common,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self.usage(answered),
            "safety": dict(safety),
        }

    def first(self, safety: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk before the first word."""
        return self._chunk({"role": "assistant", "content": ""}, safety=dict(safety))

    def piece(self, text: str) -> dict[str, Any]:
        """A chunk with words."""
        return self._chunk({"content": text})

    def last(self, answered: Answered) -> dict[str, Any]:
        """The chunk behind the last word."""
        return self._chunk({}, answered.finish)

    def used(self, answered: Answered) -> dict[str, Any]:
        """The chunk with what it took."""
        return {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": self.usage(answered)}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice], **more}


def moderation(model: str, chosen: Chosen, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The reply of `/v1/moderations` about the pictures of one request.

    `category_scores` are probabilities of what rules compare with thresholds, the largest of all pictures', and so are
    `x_thresholds`; a type that is switched off has no threshold and is never flagged.
    """
    types, limits = [*verdicts[0].scores], verdicts[0].limits
    most = {type: max(one.scores[type] for one in verdicts) for type in types}
    result = {
        "flagged": any(one.flagged for one in verdicts),
        "categories": {type: most[type] >= limits.get(type, math.inf) for type in types},
        "category_scores": {type: probability(score) for type, score in most.items()},
        "category_applied_input_types": {type: ["image"] for type in types},
        "x_thresholds": {type: probability(limit) for type, limit in limits.items()},
        "x_levels": dict(riskiest(verdicts).level_probabilities),
        "safety": safety_field(chosen, verdicts, riskiest(verdicts)),
    }
    return {"id": f"modr-{uuid.uuid4().hex}", "model": model, "results": [result]}


def guardrail(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """litellm's: a gateway can only let pass or block, so what would be hinted is blocked too."""
    if not verdicts:
        return {"action": "NONE"}
    driver = riskiest(verdicts)
    if driver.action not in ("hint", "refuse"):
        return {"action": "NONE"}
    return {"action": "BLOCKED", "blocked_reason": str(driver)}


def streamed(chunk: Mapping[str, Any]) -> bytes:
    """A chunk as a server-sent event."""
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
