"""The image features a base model is to use instead of its vision tower's: one plan per call and model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import nn


class Plan(NamedTuple):
    """The features of one call: per row of the batch, one (n_i, D) tensor per image."""

    owner: nn.Module
    rows: list[list[torch.Tensor]]


# A context variable, so that two threads that run the same model never see each other's plan.
_PLAN: ContextVar[Plan | None] = ContextVar("safety_modules_plan", default=None)


def current_plan(owner: nn.Module) -> Plan | None:
    """The plan of this thread's call, if there is one for this module."""
    plan = _PLAN.get()
    return plan if plan is not None and plan.owner is owner else None


@contextmanager
def planned(
    owner: nn.Module, features: Sequence[torch.Tensor], images_per_row: Sequence[int] | None = None
) -> Iterator[None]:
    """Inside this block `current_plan(owner)` gives these features.

    Args:
        owner: the module that asks for the plan.
        features: (n_i, D) per image of the batch.
        images_per_row: how many of them belong to each row; None = one each.
    """
    left = iter(features)
    counts = [1] * len(features) if images_per_row is None else images_per_row
    rows = [[next(left) for _ in range(count)] for count in counts]
    token = _PLAN.set(Plan(owner, rows))
    try:
        yield
    finally:
        _PLAN.reset(token)
