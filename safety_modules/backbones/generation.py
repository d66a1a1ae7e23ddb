"""Generation settings as transformers resolves them."""

from typing import Any


def option(model: Any, kwargs: dict[str, Any], name: str, default: Any = None) -> Any:
    """A generation setting as transformers resolves it: argument, passed config, the model's config."""
    if kwargs.get(name) is not None:
        return kwargs[name]
    for config in (kwargs.get("generation_config"), model.generation_config):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return default


def rows_per_prompt(model: Any, kwargs: dict[str, Any]) -> int:
    """How many row numbers generate counts for a prompt: one per sampled answer, one for all its beams."""
    if option(model, kwargs, "num_beams", 1) > 1:
        return 1
    return int(option(model, kwargs, "num_return_sequences", 1))
