"""A language model on this machine as rubric judge."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.judges.base import Judgement, Pairs, judge_words
from safety_modules.evaluation.judges.rubric import prompt_digest, read_score, rubric_prompt
from safety_modules.evaluation.judges.text_model import TextModel, short_name

MAX_TOKENS = 16


class LocalJudge:
    """Scores replies by the rubrics, with a causal language model; it does not see the pictures.

    Args:
        path: folder or hub id of the model.
        model: a model that is in memory already, with its tokenizer; None = loaded from the path.

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

    def judge(self, cases: Sequence[Case], replies: Sequence[Reply]) -> list[Judgement]:
        return judge_words(cases, replies, self._all)

    def _all(self, pairs: Pairs) -> list[Judgement]:
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
