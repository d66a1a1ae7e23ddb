"""The LLaVA-1.5 chat format on token ids: where the question is, where a hint goes, how an answer begins.

`USER: <image>\\n{question} ASSISTANT: {answer}</s>`. Works on ids, not on text, so that what the user's own
processor made of the prompt is kept id for id. Does not cover other chat formats.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch

from safety_modules.errors import PromptError

USER, ASSISTANT, IMAGE = "USER:", "ASSISTANT:", "<image>"


class ChatFormat:
    """Finds and writes the parts of a LLaVA-1.5 prompt.

    Args:
        tokenizer: the base's tokenizer.
        image_token_id: id that stands for one image feature.
    """

    def __init__(self, tokenizer: Any, image_token_id: int) -> None:
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self.special_ids = frozenset({*tokenizer.all_special_ids, image_token_id})
        self._user = self._spellings(USER)
        self._assistant = self._spellings(ASSISTANT)

    def prompt(self, question: str, images: int = 1) -> str:
        """The prompt as text, with one image placeholder per image."""
        return f"{USER} " + f"{IMAGE}\n" * images + f"{question} {ASSISTANT}"

    def answer_ids(self, answer: str, end: bool = True) -> list[int]:
        """Ids of an answer as they follow `ASSISTANT:`; with `end`, the end-of-sequence id is added."""
        ids = self._continuation(ASSISTANT, f" {answer}")
        ids = self._encode(answer) if ids is None else ids
        return [*ids, self.tokenizer.eos_token_id] if end else ids

    def question_mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """True at the text between the last `USER:` and the last `ASSISTANT:`.

        Where these markers are not found, at all text: an unknown prompt is judged by everything it says.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T).

        Returns:
            (B, T) bool; image tokens, special tokens and padding are always false.
        """
        special = torch.tensor(sorted(self.special_ids), device=input_ids.device)
        mask = attention_mask.bool() & ~torch.isin(input_ids, special)
        for row, ids in enumerate(input_ids.tolist()):
            end = _last(ids, self._assistant)
            start = None if end is None else _last(ids[: end[0]], self._user)
            if end is not None and start is not None:
                mask[row, : start[1]] = False
                mask[row, end[0] :] = False
        return mask

    def insert_hint(self, ids: Sequence[int], hint: str) -> list[int]:
        """The prompt with the hint between its last user turn and the answer.

        Args:
            ids: one prompt without padding, image tokens expanded.
            hint: a sentence.

        Returns:
            New ids; all others stay as they are, in order.

        Raises:
            PromptError: no `ASSISTANT:` after the last `USER:`, or the tokenizer does not give the prompt
                back.
        """
        ids = list(ids)
        place = _last(ids, self._assistant)
        words = self._continuation("a", f" {hint}")
        if place is not None and words is not None:
            at = place[0]
            # A tokenizer may hide a later marker in longer tokens: look at the text as well.
            before, _, after = self._decode(ids[max(at - 1, 0) :]).partition(ASSISTANT)
            if before[-1:].isspace() and ASSISTANT not in after and USER not in after:
                while at and ids[at - 1] not in self.special_ids and not self._decode([ids[at - 1]]).strip():
                    at -= 1  # "question\nASSISTANT:": the hint belongs to the question's line
                return ids[:at] + words + ids[at:]
        return self._insert_in_text(ids, hint)

    def _insert_in_text(self, ids: list[int], hint: str) -> list[int]:
        text = self._decode(ids)
        place = text.rfind(ASSISTANT)
        if place < 0 or USER in text[place:]:
            raise PromptError(
                f"no place for the safe hint: expected a prompt whose last turn is `{USER} ... {ASSISTANT}`, "
                f"got one that ends in {text[-60:]!r}. Build prompts with the processor's chat template and "
                "add_generation_prompt=True, or call with safety=False."
            )
        if self._encode(text) != ids:
            raise PromptError(
                "no place for the safe hint: expected a tokenizer that gives a prompt's text back, got other "
                f"ids for {text[-60:]!r}. Build the prompt with the model's own processor."
            )
        question = text[:place].rstrip()
        gap = text[len(question) : place] or " "
        return self._encode(f"{question} {hint}{gap}{text[place:]}")

    def _spellings(self, marker: str) -> list[list[int]]:
        """The ids a marker can have: at the start of a text, after a space, after a line break."""
        found = [self._continuation(left, text) for left, text in (("", marker), ("a", f" {marker}"), ("a\n", marker))]
        unique = {tuple(ids): ids for ids in found if ids}
        return list(unique.values())

    def _continuation(self, left: str, text: str) -> list[int] | None:
        """Ids of `text` as it follows `left`; None where the tokenizer merges the two."""
        before, both = self._encode(left), self._encode(left + text)
        return both[len(before) :] if both[: len(before)] == before else None

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


class SplitChatFormat(ChatFormat):
    """As `ChatFormat`, for an image token the tokenizer does not know: text is tokenized in pieces around it."""

    def _encode(self, text: str) -> list[int]:
        encode = super()._encode
        first, *others = (encode(piece) for piece in text.split(IMAGE))
        return first + [i for piece in others for i in (self.image_token_id, *piece)]

    def _decode(self, ids: Sequence[int]) -> str:
        runs = groupby(ids, key=lambda i: i == self.image_token_id)
        decode = super()._decode
        return "".join(IMAGE * len(list(run)) if image else decode(list(run)) for image, run in runs)


def _last(ids: Sequence[int], spellings: list[list[int]]) -> tuple[int, int] | None:
    """Start and end of the last occurrence of any spelling."""
    for start in range(len(ids) - 1, -1, -1):
        for spelling in spellings:
            if list(ids[start : start + len(spelling)]) == spelling:
                return start, start + len(spelling)
    return None
