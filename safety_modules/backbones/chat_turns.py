"""Chat formats of later LLaVAs, on token ids, where turns stand between marks of their own.

LLaVA-OneVision (Qwen2), LLaVA-1.6-34B (Yi): `<|im_start|>user <image>\\n{question}<|im_end|><|im_start|>assistant\\n`;
LLaVA-1.6-Mistral-7B: `[INST] <image>\\n{question} [/INST]`.

Which one it is, and how a prompt is written, is the processor's own chat template's to say.

Does not cover: formats of other templates: their prompts are judged by all they say, and have no place for a hint.
"""

from collections.abc import Callable, Sequence
from typing import Any

from safety_modules.backbones.chat import ASSISTANT, USER, ChatFormat, Marks
from safety_modules.errors import PromptError

MARKS = (Marks("<|im_start|>user", "<|im_start|>assistant\n", "<|im_end|>"), Marks("[INST]", "[/INST]"))


def turn_format(processor: Any, image_token_id: int) -> ChatFormat:
    """The format that the processor's chat template writes; without a known one, LLaVA-1.5's."""

    def asked(text: str, images: int = 0, answer: bool = False, history: Sequence[tuple[str, str]] = ()) -> str:
        said = [*(one for exchange in history for one in exchange), text]
        contents = [[{"type": "text", "text": one}] for one in said]
        contents[0] = [{"type": "image"}] * images + contents[0]
        turns = [{"role": ("user", "assistant")[at % 2], "content": one} for at, one in enumerate(contents)]
        return str(processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer))

    tokenizer = processor.tokenizer
    if getattr(processor, "chat_template", None) is None:
        return ChatFormat(tokenizer, image_token_id)
    written = asked("x", 1, answer=True)
    for marks in MARKS:
        if marks.user in written and written.rstrip().endswith(marks.assistant.rstrip()):
            return TurnFormat(tokenizer, image_token_id, asked, marks)
    return ChatFormat(tokenizer, image_token_id, asked)


class TurnFormat(ChatFormat):
    """Finds and writes the parts of prompts whose turns stand between such marks.

    Args:
        tokenizer: the base's tokenizer.
        image_token_id: id that stands for one image feature.
        template: a user's turn by the processor's own chat template, given its text, its images, whether the answer is
            to begin, and what was said before.
        marks: of the turns.
    """

    def __init__(self, tokenizer: Any, image_token_id: int, template: Callable[..., str], marks: Marks) -> None:
        super().__init__(tokenizer, image_token_id, template)
        self.marks, self._write = marks, template
        self._user, self._assistant = self._spellings(marks.user), self._spellings(marks.assistant)
        self._answers = self._spellings(
            marks.assistant.strip()
        )  # before an answer that was given other space may stand
        self._end = tokenizer.convert_tokens_to_ids(marks.end) if marks.end else None
        # Marks between turns stay among what is said, as `ASSISTANT:` does in LLaVA-1.5's prompts; ends do not.
        kept = {i for one in (*self._user, *self._assistant) for i in one}
        self.special_ids = (self.special_ids | ({self._end} if marks.end else set())) - kept

    def prompt(self, question: str, images: int = 1, history: Sequence[tuple[str, str]] = ()) -> str:
        return self._write(question, images, answer=True, history=history)

    def answer_ids(self, answer: str, end: bool = True) -> list[int]:
        ids = self._continuation(self.marks.assistant, answer if self._end is not None else f" {answer}")
        ids = self._encode(answer) if ids is None else ids
        return [*ids, self.tokenizer.eos_token_id] if end else ids

    def _with_roles(self, text: str) -> str:
        return text.replace(self.marks.user, USER).replace(self.marks.assistant.strip(), ASSISTANT)

    def _is_system(self, ids: list[int]) -> bool:
        # What stands before the first user's mark is the application's: users' words stand behind it.
        return self.image_token_id not in ids and self.marks.user not in self._decode(ids)

    def insert_hint(self, ids: Sequence[int], hint: str, gap: str = " ") -> list[int]:
        ids = list(ids)
        marks = [place for place in self._marks_in(ids, self._assistant) if self._last_user(ids) <= place[0]]
        words = self._continuation("a", f"{gap}{hint}")
        if not marks or words is None:
            raise PromptError(
                f"no place for the safe hint: expected a prompt whose last turn is `{self.marks.user} ... "
                f"{self.marks.assistant.strip()}`, got one that ends in {self._decode(ids)[-60:]!r}. Build prompts "
                "with the processor's chat template and add_generation_prompt=True, or call with safety=False."
            )
        at, stop = marks[0]
        if self.image_token_id in ids[at:]:
            raise PromptError(
                "no place for the safe hint: expected images in the turns of the user, got one behind the last "
                f"`{self.marks.assistant.strip()}`. Put it before the question, or call with safety=False."
            )
        while at and ids[at - 1] not in self.special_ids and not self._decode([ids[at - 1]]).strip():
            at -= 1
        if at and ids[at - 1] == self._end:
            at -= 1
        return ids[:at] + words + ids[at:stop]

    def _last_user(self, ids: list[int]) -> int:
        """Where the last user's turn begins; 0 without one."""
        return max((end for _, end in self._marks_in(ids, self._user)), default=0)

    def _marks_in(self, ids: list[int], spellings: list[list[int]]) -> list[tuple[int, int]]:
        found = [(at, at + len(one)) for at in range(len(ids)) for one in spellings if ids[at : at + len(one)] == one]
        return sorted(set(found))
