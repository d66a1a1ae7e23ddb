"""A language model on this machine that answers texts: greedy, in batches, left-padded."""

from collections.abc import Sequence
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from safety_modules.backbones.bases import load_weights
from safety_modules.errors import ConfigError

BATCH_SIZE = 8


class TextModel:
    """A causal language model and its tokenizer; the weights are loaded when first asked.

    Args:
        path: folder or hub id.
        model: the model, if it is in memory already.
        tokenizer: its tokenizer, likewise.

    Raises:
        ConfigError: there is no such model, or no tokenizer beside it.

    Does not cover: models that need code of their own (`trust_remote_code`), and pictures.
    """

    def __init__(self, path: str | PathLike[str], model: Any = None, tokenizer: Any = None) -> None:
        self.path = fspath(path)
        if model is not None:
            self.model = model
        self.tokenizer = tokenizer if tokenizer is not None else self._load("AutoTokenizer")
        self._config = model.config if model is not None else self._load("AutoConfig")

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode, on a GPU if there is one."""
        import torch

        model = self._load("AutoModelForCausalLM", weights=True, dtype="auto")
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def describe(self) -> dict[str, Any]:
        """The model, its commit on the hub (None for a folder), and transformers' version."""
        import transformers

        return {
            "model": self.path,
            "revision": getattr(self._config, "_commit_hash", None),
            "transformers": transformers.__version__,
        }

    def answer(self, prompts: Sequence[str], max_new_tokens: int) -> list[str | None]:
        """Greedy continuations of prompts that are written out, special tokens and all.

        Args:
            prompts: the texts.
            max_new_tokens: limit of each answer.

        Returns:
            The answers, without special tokens; None for a prompt that the model has no room for.
        """
        import torch

        found: list[str | None] = [None] * len(prompts)
        tokens = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
        room = getattr(self._config, "max_position_embeddings", None)
        fitting = [i for i, ids in enumerate(tokens) if room is None or len(ids) + max_new_tokens <= room]
        ends = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)  # masked: any token will do
        pad = next(token for token in ends if token is not None)
        for start in range(0, len(fitting), BATCH_SIZE):
            batch = fitting[start : start + BATCH_SIZE]
            width = max(len(tokens[i]) for i in batch)
            ids = torch.tensor([[pad] * (width - len(tokens[i])) + tokens[i] for i in batch])  # (B, T)
            mask = torch.tensor([[0] * (width - len(tokens[i])) + [1] * len(tokens[i]) for i in batch])
            output = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                do_sample=False,
                num_beams=1,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
            )
            texts = self.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
            for i, text in zip(batch, texts, strict=True):
                found[i] = text.strip()
        return found

    def _load(self, kind: str, weights: bool = False, **options: Any) -> Any:
        import transformers

        found = getattr(transformers, kind)
        try:
            if weights:
                return load_weights(found, self.path, "judge", **options)
            return found.from_pretrained(self.path, **options)
        except ConfigError:
            raise
        except Exception as error:  # transformers, the hub and the tokenizers each raise kinds of their own
            words = str(error).strip().partition("\n")[0].rstrip(".")
            raise ConfigError(
                f"judge not loaded: expected a causal language model with its tokenizer at {self.path}, "
                f"got {type(error).__name__}: {words}. Check the folder or hub id."
            ) from error


def short_name(path: str) -> str:
    """A model's name without the folders before it."""
    return Path(path).name or path
