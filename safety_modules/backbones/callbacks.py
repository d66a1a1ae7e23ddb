"""What a caller of `generate` passes to watch or steer it, where another call than the caller's own answers.

The guard lengthens prompts, and one base keeps prompts out of its sequences. The caller's criteria, processors, allowed
tokens and streamers see neither: each looks through a view, which gives the sequences as the caller knows them.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

View = Callable[[torch.Tensor, int | None], torch.Tensor]
"""From sequences (N, T) of the call that answers, or from the one (1, T) of a row with this number, to the caller's."""


def with_prompts(prompts: torch.Tensor, width: int, per_row: int) -> View:
    """The view of sequences that begin with other prompts than the caller's.

    Args:
        prompts: the caller's (B, T).
        width: length of the prompts in the sequences.
        per_row: how many row numbers a prompt has.
    """

    def view(ids: torch.Tensor, row: int | None) -> torch.Tensor:
        if row is None:
            own = prompts.repeat_interleave(len(ids) // len(prompts), 0)  # once per answer that is being made for each
        else:
            own = prompts[row // per_row][None]
        return torch.cat([own.to(ids.device), ids[:, width:]], 1)

    return view


def seen_through(view: View, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The callbacks among the arguments of a call, each seeing the sequences through a view."""
    wrapped: dict[str, Any] = {}
    if kwargs.get("stopping_criteria"):
        criteria = [_Criterion(inner, view) for inner in kwargs["stopping_criteria"]]
        wrapped["stopping_criteria"] = StoppingCriteriaList(criteria)
    if kwargs.get("logits_processor"):
        processors = [_Processor(inner, view) for inner in kwargs["logits_processor"]]
        wrapped["logits_processor"] = LogitsProcessorList(processors)
    allowed = kwargs.get("prefix_allowed_tokens_fn")
    if allowed is not None:
        wrapped["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(row, view(ids[None], row)[0])
    if kwargs.get("streamer") is not None:
        wrapped["streamer"] = _Streamer(kwargs["streamer"], view)
    return wrapped


class _Criterion(StoppingCriteria):
    def __init__(self, inner: Any, view: View) -> None:
        self.inner, self.view = inner, view

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> Any:
        return self.inner(self.view(input_ids, None), scores, **kwargs)


class _Processor(LogitsProcessor):
    def __init__(self, inner: Any, view: View) -> None:
        self.inner, self.view = inner, view

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return self.inner(self.view(input_ids, None), scores)


class _Streamer(BaseStreamer):
    """generate streams the prompts first and then token by token: only the prompts need the view."""

    def __init__(self, inner: Any, view: View) -> None:
        self.inner, self.view, self.started = inner, view, False

    def put(self, value: torch.Tensor) -> None:
        self.inner.put(value if self.started else self.view(value, None))
        self.started = True

    def end(self) -> None:
        self.inner.end()
