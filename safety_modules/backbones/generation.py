"""What the arguments of `generate` mean, as transformers resolves them; and for prompts other than the caller's.

A caller's options speak of the caller's prompts. Where a defence lengthens or replaces prompts, or a base keeps them
out of its sequences, these helpers keep the meaning: lengths are counted from the caller's prompt, and the caller's own
criteria, processors, allowed tokens and streamers see that prompt, each through a view.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

CONSTRAINTS: dict[str, Any] = {
    # veto or favour tokens of the caller's choice
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "logits_processor": None,
    "prefix_allowed_tokens_fn": None,
    "watermarking_config": None,
    # force tokens of the caller's choice
    "constraints": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    # veto what the prompt says, where a caller can write a refusal
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "penalty_alpha": None,
    # go on behind a refusal
    "min_length": 0,
    "min_new_tokens": 0,
    "exponential_decay_length_penalty": None,
    # prefer other answers than the likely one
    "length_penalty": 1.0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "typical_p": 1.0,
    "guidance_scale": 1.0,
    "dola_layers": None,
    "assistant_ensemble_weight": None,
    # writes the end of the prompt anew
    "token_healing": False,
}
"""Options of `generate` that can take a refusal from a model or put other words in its place, by the value with which
they do nothing. `eos_token_id` is one where it leaves out an end of the base's own: the model would go on behind it.
"""
UNCONSTRAINING = frozenset({
    # how many, how long, until when: a part of what would be said
    "max_length", "max_new_tokens", "max_time", "stop_strings", "num_return_sequences",
    # a choice among what the model finds likely, as the base would choose
    "do_sample", "num_beams", "early_stopping", "temperature", "top_k", "top_p", "top_h", "min_p", "epsilon_cutoff",
    "eta_cutoff", "renormalize_logits", "remove_invalid_values",
    # the same tokens, computed in another way
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache", "prefill_chunk_size",
    "low_memory", "compile_config", "disable_compile", "continuous_batching_config", "use_mtp", "speculation_type",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    # what is returned, and the ids of tokens that are not said
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
    "pad_token_id", "bos_token_id", "decoder_start_token_id", "transformers_version",
})  # fmt: skip
"""Options that cannot. One that is in neither list, of a newer transformers, counts as one that can."""

_ONE_ROW_A_PROMPT = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 24)
_CACHE_NOTES = ("_previous_max_cache_length", "_cache")  # the second before transformers 5


def images_of_rows(tokens: Sequence[int], patches: Sequence[int]) -> list[list[int]] | None:
    """Images shared out to the rows of a batch, from the image tokens in each row and those of each image in order
    (`Backbone.patch_counts`): per row, the tokens of each of its images. None where they do not match.
    """
    left, rows = list(patches), []
    for count in tokens:
        row: list[int] = []
        while left and sum(row) < count:
            row.append(left.pop(0))
        rows.append(row)
    return None if left or list(map(sum, rows)) != list(tokens) else rows


def option(model: Any, kwargs: dict[str, Any], name: str, default: Any = None) -> Any:
    """A generation setting as transformers resolves it: argument, passed config, the model's config."""
    if kwargs.get(name) is not None:
        return kwargs[name]
    for config in (kwargs.get("generation_config"), model.generation_config):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return default


def end_ids(model: Any, kwargs: dict[str, Any]) -> set[int]:
    """The ids that end a sequence."""
    end = option(model, kwargs, "eos_token_id")
    return set() if end is None else {int(i) for i in torch.as_tensor(end).flatten()}


def constraints(model: Any, kwargs: dict[str, Any]) -> list[str]:
    """Those of `CONSTRAINTS` that a call or a config it passes sets; what the model's own config says is the base's."""
    passed, own, found = kwargs.get("generation_config"), model.generation_config, list[str]()
    fields = {name: value for name, value in vars(GenerationConfig()).items() if not name.startswith("_")}
    for name, neutral in (fields | CONSTRAINTS).items():
        value = getattr(passed, name, None) if kwargs.get(name) is None else kwargs[name]
        if value is None or name in UNCONSTRAINING or (hasattr(value, "__len__") and not len(value)):
            continue
        ends = name == "eos_token_id" and end_ids(model, {}) <= end_ids(model, {name: value})
        plain = type(value) in (bool, int, float, str, list, tuple, dict)  # others may not be comparable
        if not ends and not (plain and value in (neutral, getattr(own, name, None))):
            found.append(name)
    return found


def pad_id(model: Any, kwargs: dict[str, Any], default: int) -> int:
    """The id generate pads with: the setting, else the first end-of-sequence id, else `default`, the tokenizer's."""
    pad = option(model, kwargs, "pad_token_id")
    if pad is None:
        pad = option(model, kwargs, "eos_token_id", default)
    return int(torch.as_tensor(pad).flatten()[0])


def answer_length(ids: list[int], ends: set[int], pad: int | None) -> int:
    """Tokens up to the end of the sequence, which counts; without one, up to the padding a longer answer brought."""
    for place, token in enumerate(ids):
        if token in ends:
            return place + 1
    while ids and ids[-1] == pad:
        ids = ids[:-1]
    return len(ids)


def rows_per_prompt(model: Any, kwargs: dict[str, Any]) -> int:
    """How many row numbers generate counts for a prompt: one for all its beams; before transformers 5.24 one for each
    sampled answer, since then one for all of them.
    """
    if _ONE_ROW_A_PROMPT or option(model, kwargs, "num_beams", 1) > 1:
        return 1
    return int(option(model, kwargs, "num_return_sequences", 1))


def max_length(model: Any, kwargs: dict[str, Any]) -> int | None:
    """`max_length` where one was set; transformers' own default counts new tokens, so it is not one."""
    if kwargs.get("max_length") is not None:
        return int(kwargs["max_length"])
    for config in (kwargs.get("generation_config"), model.generation_config):
        value = getattr(config, "max_length", None)
        if value is not None and value != GenerationConfig().max_length:
            return int(value)
    return None


def new_token_budget(model: Any, kwargs: dict[str, Any], width: int) -> int | None:
    """How many new tokens the caller of padded prompts of this width (T) allows; None = no limit given."""
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


def cache_argument(model: Any) -> str:
    """What the model's forward takes the states of earlier tokens as; renamed in transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


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


View = Callable[[torch.Tensor, int | None], torch.Tensor]
"""From sequences (N, T) of the call that answers, or from the one (1, T) of a row with this number, to the caller's."""


def with_prompts(prompts: torch.Tensor, width: int, per_row: int) -> View:
    """The view of sequences whose first `width` tokens are other prompts than the caller's (B, T), which have
    `per_row` row numbers each.
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


class RowStreamer(BaseStreamer):
    """A streamer that tells rows apart, so that a batch may be answered in parts: each part streams to its own."""

    def of_rows(self, rows: Sequence[int], records: Sequence[Any]) -> BaseStreamer:
        """The streamer of these rows of the caller's batch, asked for before the first of their tokens.

        Args:
            rows: of the batch.
            records: what is known by now of every row of the batch, `defences.answer.Row`.
        """
        raise NotImplementedError


class _Streamer(BaseStreamer):
    """generate streams the prompts first and then token by token: only the prompts need the view."""

    def __init__(self, inner: Any, view: View) -> None:
        self.inner, self.view, self.started = inner, view, False

    def put(self, value: torch.Tensor) -> None:
        self.inner.put(value if self.started else self.view(value, None))
        self.started = True

    def end(self) -> None:
        self.inner.end()
