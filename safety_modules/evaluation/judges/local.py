"""Language models on this machine, greedy, in batches, left-padded; and the rubric judge that is one."""

from collections.abc import Sequence
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from safety_modules.backbones.bases import load_weights
from safety_modules.errors import ConfigError
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.judges.base import Judgement, Pairs, WordsJudge
from safety_modules.evaluation.judges.rubric import prompt_digest, read_score, rubric_prompt

BATCH_SIZE = 8
MAX_TOKENS = 16


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


class LocalJudge(WordsJudge):
    """Scores replies by the rubrics, with a causal language model; it does not see the pictures.

    Raises:
        ConfigError: the model cannot be loaded.

    Does not cover: whether the model is fit to judge. Models that think aloud before they answer give no score.
    """

    def __init__(self, path: str | PathLike[str], model: TextModel | None = None) -> None:
        self._model = model or TextModel(path)
        self.name = f"local:{short_name(self._model.path)}"

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self._model.describe(),
            "prompt_digest": prompt_digest(),
            "decoding": f"greedy, at most {MAX_TOKENS} tokens",
            "images": False,
        }

    def _judge(self, pairs: Pairs) -> list[Judgement]:
        said = self._model.answer([self._prompt(case, reply) for case, reply in pairs], MAX_TOKENS)
        return [
            Judgement(error="no judgement: expected a prompt the judge has room for, got a longer one.")
            if text is None
            else read_score(case, text)
            for (case, _), text in zip(pairs, said, strict=True)
        ]

    def _prompt(self, case: Case, reply: Reply) -> str:
        """In the model's chat format; as plain text where it has none."""
        words = rubric_prompt(case, reply)
        tokenizer = self._model.tokenizer
        if tokenizer.chat_template is None:
            return (tokenizer.bos_token or "") + words
        turns = [{"role": "user", "content": words}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
