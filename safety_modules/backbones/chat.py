"""The LLaVA-1.5 chat format on token ids: what is said, in which readings it is judged, where a hint goes.

`USER: <image>\\n{question} ASSISTANT: {answer}</s>`. Works on ids, not on text, so that what the user's own
processor made of the prompt is kept id for id.

Does not cover other chat formats: their prompts are judged by all they say, and have no place for a hint.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, groupby, pairwise, takewhile
from typing import Any, NamedTuple

from safety_modules.errors import PromptError

USER, ASSISTANT, IMAGE = "USER:", "ASSISTANT:", "<image>"

WINDOW, STEP = 24, 6
"""Tokens of a window, and from one to the next: a sentence longer than a window is also judged window by window."""
LONG = 48
"""Tokens from which a head that reads is also asked about each part of a text: see `ChatFormat.turns`."""

# Behind the mark, so that "3.5" and "e.g." within a word stay whole; Chinese and Japanese have no space there.
_ENDS = re.compile(r"(?<=[.!?;\n])\s+|(?<=[。！？；])")


class Reading(NamedTuple):
    """A text that is judged beside a picture.

    Attributes:
        ids: its tokens, without image tokens and special tokens; none where it has no words: the picture alone.
        turn: of the user, counted from 1: the last one in it, or the one it is a part of; 0 where nothing is said.
    """

    ids: list[int]
    turn: int = 0


class Marks(NamedTuple):
    """What stands before a user's turn and before an answer, and what ends a turn."""

    user: str
    assistant: str
    end: str = ""


class ChatFormat:
    """Finds and writes the parts of a LLaVA-1.5 prompt.

    Args:
        tokenizer: the base's tokenizer.
        image_token_id: id that stands for one image feature.
        template: a user's turn by the processor's own chat template, given its text; None = there is no template.
    """

    marks = Marks(USER, ASSISTANT)

    def __init__(self, tokenizer: Any, image_token_id: int, template: Callable[[str], str] | None = None) -> None:
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self._template = template
        self.special_ids = frozenset({*tokenizer.all_special_ids, image_token_id})
        self._user = self._spellings(USER)
        self._assistant = self._answers = self._spellings(ASSISTANT)

    def prompt(self, question: str, images: int = 1, history: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt as text: exchanges (user, assistant), then the question; image placeholders in the first turn."""
        end = self.tokenizer.eos_token or ""
        before = "".join(f"{said} {ASSISTANT} {answer}{end}{USER} " for said, answer in history)
        return f"{USER} " + f"{IMAGE}\n" * images + f"{before}{question} {ASSISTANT}"

    def answer_ids(self, answer: str, end: bool = True) -> list[int]:
        """Ids of an answer as they follow `ASSISTANT:`; with `end`, the end-of-sequence id is added."""
        ids = self._continuation(ASSISTANT, f" {answer}")
        ids = self._encode(answer) if ids is None else ids
        return [*ids, self.tokenizer.eos_token_id] if end else ids

    def whole_text(self, ids: Sequence[int]) -> list[int]:
        """All that is said in a prompt, by whomever: from the first user turn on, a begun answer included.

        A role marker proves nothing, because a user may type it: only the first `USER:`, which stands before anything
        that a user can type, and an `ASSISTANT:` with nothing behind it are the template's. What stands before the
        first is the application's system message, unless the processor's own template is of another kind.

        Args:
            ids: one prompt without padding, image tokens expanded or not.

        Returns:
            Its ids, in order, without image tokens and special tokens.
        """
        ids = list(ids)
        start, end = self._said(ids)
        return self._text_ids(ids[start:end])

    def _said(self, ids: list[int]) -> tuple[int, int]:
        start, end = 0, len(ids)
        first = next(_places(ids, self._user), None)
        if first is not None and self._is_system(ids[: first[0]]):
            start = first[1]
        *_, last = None, *_places(ids, self._assistant)
        if last is not None and last[0] >= start and not self._decode(self._text_ids(ids[last[1] :])).strip():
            end = last[0]
        return start, end

    def turns(self, ids: Sequence[int]) -> list[Reading]:
        """What a prompt is to be judged by, the riskiest counts: all that is said, and all up to each turn of the user;
        of long texts each part as well.

        The language model acts on the conversation: what was asked before stays asked ("go on"), and an answer between
        belongs to what is said after it. A `USER:` that a user typed makes one more reading, and hides nothing. The
        first reading is `whole_text`, always, or nothing where a prompt has no words. All are written as `plain` does.
        """
        ids = list(ids)
        start, end = self._said(ids)
        users = list(_places(ids, self._user))
        answers = [place for place, _ in _places(ids, self._answers)]
        stops = [*(place for place, _ in users[1:]), end]
        found = [Reading(self._text_ids(ids[start:end]), len(users) or 1)]
        for turn, ((_, begin), stop) in enumerate(zip(users, stops, strict=False), 1):
            stop = min([stop, *(place for place in answers if place >= begin)])
            found.append(Reading(self._text_ids(ids[start:stop]), turn))
        return self._distinct(found + (self.parts(ids)[1:] if len(found[0].ids) > LONG else []))

    def parts(self, ids: Sequence[int]) -> list[Reading]:
        """As `turns`, for a head that takes the mean, and loses one sentence among others: all, and each part alone."""
        whole = self.whole_text(ids)
        found = [Reading(whole, len(list(_places(ids, self._user))) or 1)]
        for part in text_parts(self._with_roles(self._decode(whole))):
            asked = self._asked_alone(part.text)
            found += [Reading(asked, part.turn)] if part.whole else []
            if part.in_windows:
                lead = self._lead if asked[: len(self._lead)] == self._lead else []
                found += [Reading(lead + window, part.turn) for window in windows(asked[len(lead) :])]
        return self._distinct(found)

    def _distinct(self, readings: list[Reading]) -> list[Reading]:
        """Each text once and written plainly, those without words without ids. Of a prompt without words one is left,
        of no turn.
        """
        found: dict[tuple[int, ...], Reading] = {}
        for one in readings:
            ids = self._written_plainly(one.ids) if self._has_words(one.ids) else []
            found.setdefault(tuple(ids), Reading(ids, one.turn))
        return [*found.values()] if self._has_words(readings[0].ids) else [Reading([])]

    def _has_words(self, ids: list[int]) -> bool:
        """Whether there is a letter, a digit or a symbol (such as an emoji) beside role markers."""
        said = self._with_roles(self._decode(ids)).replace(USER, "").replace(ASSISTANT, "")
        return any(unicodedata.category(character)[0] in "LNS" for character in said)

    def _written_plainly(self, ids: list[int]) -> list[int]:
        """The same ids where the text is `plain`, else those of the plain text: a word in capitals has other tokens."""
        text = self._decode(ids)
        plainly = plain(text, self.marks)
        return ids if plainly == text else self._asked_alone(plainly.strip())

    def _with_roles(self, text: str) -> str:
        """All that is said, with `USER:` and `ASSISTANT:` between its turns."""
        return text

    def _asked_alone(self, text: str) -> list[int]:
        """What the head sees of a question in a prompt of its own."""
        return self.whole_text(self._encode(self.prompt(text)))

    @cached_property
    def _lead(self) -> list[int]:
        """What stands before a question's own words in `_asked_alone`: white space around the image."""
        one, other = self._asked_alone("a"), self._asked_alone("b")
        return [i for i, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]

    def _is_system(self, ids: list[int]) -> bool:
        """Whether these ids, all before the first user turn, are nothing or the application's system message."""
        if self.image_token_id in ids:
            return False
        text = self._decode(self._text_ids(ids)).strip()
        # A tokenizer may hide an earlier marker in longer tokens.
        return not text or (self._template_is_own and USER not in text)

    @cached_property
    def _template_is_own(self) -> bool:
        """Whether the processor's own template, if it has one, begins a user's turn as this format does."""
        if self._template is None:
            return True
        try:
            return USER in self._template("x").partition("x")[0]
        except Exception:  # a template may raise anything; then nothing is known to be a system message
            return False

    def _text_ids(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if i not in self.special_ids]

    def insert_hint(self, ids: Sequence[int], hint: str, gap: str = " ") -> list[int]:
        """The prompt with the hint after its last user turn; a beginning of the answer is left out.

        What stands behind the `ASSISTANT:` of the last turn are words that were put into the model's mouth: it would
        rather go on with these than follow the hint.

        Args:
            ids: one prompt without padding, image tokens expanded.
            hint: a sentence.
            gap: what stands between question and hint.

        Returns:
            New ids, up to `ASSISTANT:`; the others before it stay as they are, in order.

        Raises:
            PromptError: no `ASSISTANT:` after the last `USER:`, an image behind it, or the tokenizer does not give the
                prompt back.
        """
        ids, text = list(ids), self._decode(ids)
        user = text.rfind(USER)
        place = text.find(ASSISTANT, max(user, 0))
        if place < 0:
            raise PromptError(
                f"no place for the safe hint: expected a prompt whose last turn is `{USER} ... {ASSISTANT}`, "
                f"got one that ends in {text[-60:]!r}. Build prompts with the processor's chat template and "
                "add_generation_prompt=True, or call with safety=False."
            )
        if self._decode([self.image_token_id]) in text[place:]:
            raise PromptError(
                "no place for the safe hint: expected images in the turns of the user, got one behind the last "
                f"`{ASSISTANT}`. Put it before the question, or call with safety=False."
            )
        marker = self._marker_at(ids, text[place:])
        words = self._continuation("a", f"{gap}{hint}")
        if marker is not None and words is not None and text[:place][-1:].isspace():
            at, stop = marker
            while at and ids[at - 1] not in self.special_ids and not self._decode([ids[at - 1]]).strip():
                at -= 1  # "question\nASSISTANT:": the hint belongs to the question's line
            if at and ids[at - 1] not in self.special_ids:
                return ids[:at] + words + ids[at:stop]
        return self._reworded(ids, place, f"{gap}{hint}")

    def _reworded(self, ids: list[int], place: int, words: str) -> list[int]:
        """The prompt with words before the `ASSISTANT:` at this place of its text, where no token ends at theirs.

        What stands between the special tokens around them is tokenized anew; all before that stays id for id.
        """
        starts = [0, *(at for at, i in enumerate(ids, 1) if i in self.special_ids)]
        start = [at for at in starts if len(self._decode(ids[:at])) <= place][-1]
        own = list(takewhile(lambda i: i not in self.special_ids, ids[start:]))
        left, said = self._decode(ids[start - 1 : start]), self._decode(own)
        for text in (said, f" {said}"):  # decoding drops a space that some tokenizers put before every piece
            end = text.find(ASSISTANT, max(text.rfind(USER), 0))
            if end >= 0 and self._continuation(left, text) == own:
                question = text[:end].rstrip()
                gap = text[len(question) : end] or " "
                again = self._continuation(left, f"{question}{words}{gap}{ASSISTANT}")
                if again is not None:
                    return ids[:start] + again
        raise PromptError(
            "no place for the safe hint: expected a tokenizer that gives a prompt's text back, got other "
            f"ids for {self._decode(ids)[-60:]!r}. Build the prompt with the model's own processor."
        )

    def _marker_at(self, ids: list[int], tail: str) -> tuple[int, int] | None:
        """Start and end of the `ASSISTANT:` with which the text `tail` begins; None where tokens hide it."""
        places = _places(ids, self._assistant)
        return next((place for place in places if self._decode(ids[place[0] :]).lstrip() == tail), None)

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
        return encode(self.tokenizer, text, special=False)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def encode(tokenizer: Any, text: str, special: bool) -> list[int]:
    """Ids of a text; with `special`, the tokens that begin or end one too.

    transformers keeps padding and truncation on a fast tokenizer, where a call of its own would take them away from
    another thread that is tokenizing with it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        found = backend.encode(text, add_special_tokens=special)
        if not found.overflowing:  # else somebody's truncation
            return [i for i, real in zip(found.ids, found.attention_mask, strict=True) if real]
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


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


def _places(ids: Sequence[int], spellings: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Start and end of every occurrence of any spelling, each end once: one may be the end of another."""
    ends, firsts = set[int](), {spelling[0] for spelling in spellings}
    for start, first in enumerate(ids):
        for spelling in spellings if first in firsts else ():
            end = start + len(spelling)
            if end not in ends and list(ids[start:end]) == spelling:
                ends.add(end)
                yield start, end


class PromptPart(NamedTuple):
    """A part of what is said: its text, the user's turn it is in or answers, whether it is judged as a whole, whether
    also window by window.
    """

    text: str
    turn: int
    whole: bool
    in_windows: bool


def text_parts(text: str) -> Iterator[PromptPart]:
    """Turns where there are several, and sentences of a turn that has several, of a text without its first role marker.

    An answer is not cut into sentences: it is long, and mostly the model's own. A user may type one, too, so that it
    is judged like any turn, and in windows.
    """
    said = re.split(f"({USER}|{ASSISTANT})", USER + text)[1:]
    numbers: Iterator[int] = accumulate(int(role == USER) for role in said[::2])
    turns = [(n, role, turn.strip()) for n, role, turn in zip(numbers, said[::2], said[1::2], strict=True)]
    turns = [one for one in turns if one[2]]
    for number, role, turn in turns:
        sentences = [one for one in _ENDS.split(turn) if any(map(str.isalpha, one))] if role == USER else []
        several = len(sentences) > 1
        yield PromptPart(turn, number, len(turns) > 1, not several)
        if several:
            yield from (PromptPart(sentence, number, True, True) for sentence in sentences)


def plain(text: str, marks: Marks = ChatFormat.marks) -> str:
    """A text with its words in lower case where a capital follows a letter ("BOMB", "bOmb", not "Bomb"), in the usual
    form of its characters (NFKC) and without invisible ones; the marks of turns stay.
    """
    text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    said = re.split(f"({re.escape(marks.user)}|{re.escape(marks.assistant)})", text)
    return "".join(one if i % 2 else re.sub(r"\w+", _lower_if_mixed, one) for i, one in enumerate(said))


def _lower_if_mixed(word: re.Match[str]) -> str:
    found = word.group()
    return found.lower() if any(a.isalpha() and b.isupper() for a, b in pairwise(found)) else found


def windows(ids: Sequence[int]) -> list[list[int]]:
    """Overlapping windows over ids that are longer than one; their ends are always in one."""
    if len(ids) <= WINDOW:
        return []
    starts = [*range(0, len(ids) - WINDOW, STEP), len(ids) - WINDOW]
    return [list(ids[start : start + WINDOW]) for start in starts]
