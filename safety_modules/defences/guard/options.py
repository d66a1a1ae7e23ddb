"""What the options of `generate` mean for a part of a batch whose prompts got longer.

The caller's options speak of the caller's prompts. These helpers keep their meaning: lengths are counted from
the caller's prompt, and the caller's own criteria, processors and streamers see that prompt, never the hint.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from safety_modules.backbones import Backbone
from safety_modules.backbones.callbacks import seen_through, with_prompts
from safety_modules.backbones.generation import option, rows_per_prompt

_CACHE_NOTES = ("_previous_max_cache_length", "_cache")  # the second before transformers 5


def max_length(model: Any, kwargs: dict[str, Any]) -> int | None:
    """`max_length` where one was set; transformers' own default counts new tokens, so it is not one."""
    if kwargs.get("max_length") is not None:
        return int(kwargs["max_length"])
    for config in (kwargs.get("generation_config"), model.generation_config):
        value = getattr(config, "max_length", None)
        if value is not None and value != GenerationConfig().max_length:
            return int(value)
    return None


def pad_id(backbone: Backbone, kwargs: dict[str, Any]) -> int:
    """The id generate pads with: the setting, else the first end-of-sequence id, else the tokenizer's."""
    pad = option(backbone.model, kwargs, "pad_token_id")
    if pad is None:
        pad = option(backbone.model, kwargs, "eos_token_id", backbone.pad_token_id)
    return int(torch.as_tensor(pad).flatten()[0])


def new_token_budget(model: Any, kwargs: dict[str, Any], width: int) -> int | None:
    """How many new tokens the caller allows; None = no limit given.

    Args:
        model: the base.
        kwargs: of the call.
        width: length of the caller's padded prompts (T).
    """
    new_tokens, total = option(model, kwargs, "max_new_tokens"), max_length(model, kwargs)
    if new_tokens is not None:
        return int(new_tokens)
    return None if total is None else max(total - width, 0)


def moved_lengths(model: Any, kwargs: dict[str, Any], shift: int) -> dict[str, int]:
    """`max_length` and `min_length` for prompts that are `shift` tokens longer than the caller's."""
    moved = {}
    total = max_length(model, kwargs)
    if option(model, kwargs, "max_new_tokens") is None and total is not None:
        moved["max_length"] = total + shift
    least = option(model, kwargs, "min_length", 0)
    if option(model, kwargs, "min_new_tokens") is None and least:
        moved["min_length"] = max(least + shift, 0)
    return moved


def until_stop(tokenizer: Any, ids: list[int], stop_strings: str | Sequence[str] | None) -> list[int]:
    """An answer up to the token that completes a stop string, which is where generate would end it."""
    stops = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings or [])
    if stops:
        for end in range(1, len(ids) + 1):
            text = tokenizer.decode(ids[:end])
            if any(stop in text for stop in stops):
                return ids[:end]
    return ids


@contextmanager
def cache_length_restored(model: Any) -> Iterator[None]:
    """What generate notes on the model about static caches is afterwards as before.

    It makes a cache as long as any before it. Steered prompts are longer: without this, the base's later answers
    would run in longer caches than they would have without a guard.
    """
    notes = vars(model)
    before = {name: notes[name] for name in _CACHE_NOTES if name in notes}
    try:
        yield
    finally:
        for name in _CACHE_NOTES:
            notes.pop(name, None)
        notes.update(before)


def callbacks(
    model: Any, kwargs: dict[str, Any], rows: Sequence[int], prompts: torch.Tensor, width: int
) -> dict[str, Any]:
    """The caller's callbacks for a part of the batch, seeing the caller's row numbers and prompts.

    Args:
        model: the base.
        kwargs: of the call.
        rows: which rows of the caller's batch these are.
        prompts: their prompts as the caller passed them (G, T).
        width: length of the prompts the language model really gets.
    """
    n = rows_per_prompt(model, kwargs)
    allowed = kwargs.get("prefix_allowed_tokens_fn")
    if allowed is not None:

        def allowed_here(row: int, ids: torch.Tensor) -> list[int]:
            here, answer = divmod(row, n)
            return allowed(rows[here] * n + answer, ids)

        kwargs = kwargs | {"prefix_allowed_tokens_fn": allowed_here}
    return seen_through(with_prompts(prompts, width, n), kwargs)
