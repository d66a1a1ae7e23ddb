"""A rubric judge behind an OpenAI-compatible endpoint: a provider's, or a server of one's own such as vLLM.

Through the `openai` package: it knows when to try again and how long to wait first (408, 409, 429, 5xx, timeouts,
broken connections; `Retry-After`), which would otherwise be ours to write on top of an HTTP library.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from safety_modules.errors import ConfigError, DataError
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.judges.base import Judgement, Pairs, WordsJudge
from safety_modules.evaluation.judges.rubric import prompt_digest, read_score, rubric_prompt
from safety_modules.io.html import picture_uri
from safety_modules.io.optional import needed

KEY = "SAFETY_MODULES_JUDGE_KEY"
"""The environment variable with the endpoint's key. Not a provider's own: a key goes to no address by accident."""
MAX_TOKENS = 16


class EndpointJudge(WordsJudge):
    """Scores replies by the rubrics, through chat completions.

    Whatever is no score is an error: a failed or timed-out call (after the retries), a refusal of the judge, an empty
    or cut-off text, a number out of range. The key is read from the environment variable `KEY` when the judge is made
    and neither shown nor stored; what a server says of a failure is not repeated either, for it may name the key.

    Args:
        model: the endpoint's name for the model.
        url: of the endpoint up to `/v1`, without a user name or a query.
        images: send the pictures as well.
        timeout: seconds for each try.
        max_retries: tries after the first.
        concurrency: calls at a time.

    Raises:
        ConfigError: the address cannot be used.
        DataError: the `openai` package is not installed.

    Does not cover: models that take neither `max_tokens` nor temperature 0; every reply is then an error.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        images: bool = False,
        timeout: float = 60.0,
        max_retries: int = 4,
        concurrency: int = 8,
    ) -> None:
        self.model, self.images, self.concurrency = model, images, concurrency
        self.url = _checked(url)
        self.name = f"{'endpoint+images' if images else 'endpoint'}:{model}"
        self._served: set[str] = set()
        self._openai = needed("openai", "an endpoint judge", "eval")
        self._client = self._openai.OpenAI(
            base_url=self.url,
            api_key=os.environ.get(KEY) or "none",  # the package wants one; a server without keys ignores it
            timeout=timeout,
            max_retries=max_retries,
        )

    def describe(self) -> dict[str, Any]:
        """As `Judge` has it; `served` names the models that the endpoint says have answered so far."""
        return {
            "name": self.name,
            "version": self.model,
            "served": sorted(self._served),
            "url": self.url,
            "prompt_digest": prompt_digest(),
            "decoding": f"temperature 0, at most {MAX_TOKENS} tokens",
            "images": self.images,
        }

    def _judge(self, pairs: Pairs) -> list[Judgement]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(lambda pair: self._one(*pair), pairs))

    def _one(self, case: Case, reply: Reply) -> Judgement:
        try:
            answer = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": self._content(case, reply)}],
                temperature=0,
                max_tokens=MAX_TOKENS,
            )
        except DataError as error:
            return Judgement(error=f"no judgement: {error}")
        except self._openai.APIStatusError as error:
            return _failed(f"HTTP {error.status_code}")
        except (self._openai.OpenAIError, ValueError) as error:  # ValueError: a body that is not JSON
            return _failed(type(error).__name__)
        return self._read(case, answer)

    def _content(self, case: Case, reply: Reply) -> Any:
        shown = self.images and bool(case.images)
        words = rubric_prompt(case, reply, shown)
        if not shown:
            return words
        pictures = [
            {"type": "image_url", "image_url": {"url": picture_uri(image, "PNG")}} for image in case.load_images()
        ]
        return [{"type": "text", "text": words}, *pictures]

    def _read(self, case: Case, answer: Any) -> Judgement:
        """The judgement in a completion, of which the package checks nothing."""
        try:
            choice = answer.choices[0]
            refusal, said, reason = choice.message.refusal, choice.message.content, choice.finish_reason
        except (AttributeError, IndexError, TypeError):
            return _failed("a reply without a choice")
        if isinstance(answer.model, str):
            self._served.add(answer.model)
        if refusal or reason == "content_filter":
            return _failed("a refusal of the judge")
        if reason == "length":
            return _failed("a text cut off at the limit")
        return read_score(case, said if isinstance(said, str) else None)


def _failed(got: str) -> Judgement:
    return Judgement(error=f"no judgement: expected a score from the endpoint, got {got}.")


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"judge's address: expected http(s)://host/v1, got {url!r}. Correct it.")
    if parts.username or parts.password or parts.query or parts.fragment:  # may be secrets: not repeated
        raise ConfigError(
            f"judge's address: expected it without user name, password and query, got one with them. Put a key into "
            f"the environment variable {KEY}."
        )
    return url.rstrip("/")
