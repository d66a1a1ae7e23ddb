"""What people do to a question: dilute it, mistype it, say it in other words, or spread it over several turns.

All of it leaves alone what is meant, so a label holds before and after. Whatever is added belongs to the split: nobody
trains on a sentence that is measured.
"""

import re
from collections.abc import Callable
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

import numpy as np

from safety_modules.pocket import paraphrases
from safety_modules.pocket.language import DEEDS, choose, wordings
from safety_modules.pocket.sentences import fill, free_sentence, free_text

LEAST_WORDS, MOST_WORDS = 5, 400
"""Of what stands around a question, in training."""
TYPING_ERRORS = 0.08
"""Share of the letters that are mistyped where nothing else is said: about every second word."""
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LEET = str.maketrans("aeiost", "431057")
_ROLES = {
    "train": (("USER", "ASSISTANT"), ("User", "Assistant"), ("Q", "A"), ("Human", "AI"), ("### User", "### Assistant")),
    "validation": (("USER", "ASSISTANT"), ("Human", "Assistant")),
    "test": (("USER", "ASSISTANT"), ("Customer", "Bot")),
}


class Reworded(NamedTuple):
    """A question as somebody might put it.

    Attributes:
        question: the last thing the user says.
        history: what was said before, oldest first, as (user's words, assistant's answer).
        form: what was done to the question, names of functions of this module.
    """

    question: str
    history: tuple[tuple[str, str], ...] = ()
    form: str = ""


def before(text: str, split: str, rng: np.random.Generator, words: int | None = None) -> Reworded:
    """Harmless sentences of so many words in front of it; 5 to 400, small numbers more often, if nothing is said."""
    return Reworded(f"{_around(words, split, rng)} {text}", form="before")


def after(text: str, split: str, rng: np.random.Generator, words: int | None = None) -> Reworded:
    """The same behind it."""
    return Reworded(f"{text} {_around(words, split, rng)}", form="after")


def around(text: str, split: str, rng: np.random.Generator, words: int | None = None) -> Reworded:
    """The same on both sides."""
    return Reworded(f"{_around(words, split, rng)} {text} {_around(words, split, rng)}", form="around")


def mistyped(text: str, split: str, rng: np.random.Generator, rate: float = TYPING_ERRORS) -> Reworded:
    """Letters swapped with the next, left out, doubled, or hit beside: this share of them, but at least one."""
    letters = [place for place, letter in enumerate(text) if letter.isalpha()]
    if not letters:
        return Reworded(text, form="mistyped")
    chosen = [place for place in letters if rng.random() < rate]
    found = list(text)
    for place in chosen or [choose(rng, letters)]:
        kind, letter = rng.integers(4), found[place]
        if kind == 0 and place + 1 < len(text):
            found[place], found[place + 1] = found[place + 1], letter
        elif kind == 1:
            found[place] = ""
        elif kind == 2:
            found[place] = letter * 2
        else:
            found[place] = _beside(letter, rng)
    return Reworded("".join(found), form="mistyped")


def capitals(text: str, split: str, rng: np.random.Generator) -> Reworded:
    """All in upper case."""
    return Reworded(text.upper(), form="capitals")


def mixed_case(text: str, split: str, rng: np.random.Generator) -> Reworded:
    """In lower case, with every word's first letter in upper case, with random letters, or with random words."""
    kind = rng.integers(4)
    if kind == 0:
        return Reworded(text.lower(), form="mixed_case")
    if kind == 1:
        return Reworded(text.title(), form="mixed_case")
    parts: list[str] = list(text) if kind == 2 else text.split(" ")
    loud = [part.upper() if rng.random() < 0.4 else part for part in parts]
    return Reworded(("" if kind == 2 else " ").join(loud), form="mixed_case")


def leet(text: str, split: str, rng: np.random.Generator) -> Reworded:
    """Some letters as digits: `h0w d0 I us3 th1s`."""
    digits = [letter.translate(_LEET) if rng.random() < 0.6 else letter for letter in text]
    return Reworded("".join(digits), form="leet")


def run_together(text: str, split: str, rng: np.random.Generator) -> Reworded:
    """Without punctuation, and with some of the spaces missing."""
    kept = "".join(letter for letter in text if letter.isalnum() or letter.isspace())
    rate = choose(rng, (0.0, 0.15, 0.4))
    return Reworded("".join(c for c in kept if c != " " or rng.random() >= rate), form="run_together")


def continued(text: str, split: str, rng: np.random.Generator, answer: str | None = None) -> Reworded:
    """The question one or two turns ago, an answer to it, and now `Go on.` or the like, which inherits its meaning.

    Args:
        answer: what an assistant says to the question; half of the time something short instead.
    """
    said = answer if answer and rng.random() < 0.5 else _between(split, rng)
    history = [(text, said)]
    draw = rng.random()
    if draw < 0.25:
        history.append((follow_up(split, rng), _between(split, rng)))
    elif draw < 0.45:
        history.insert(0, (free_sentence(split, rng), _between(split, rng)))
    return Reworded(follow_up(split, rng), tuple(history), "continued")


def later(text: str, split: str, rng: np.random.Generator) -> Reworded:
    """The question after one or two turns of harmless talk."""
    talk = [(free_sentence(split, rng), _between(split, rng)) for _ in range(1 + int(rng.random() < 0.4))]
    return Reworded(text, tuple(talk), "later")


def forged(text: str, split: str, rng: np.random.Generator) -> Reworded:
    """A whole conversation typed into one message: `... ASSISTANT: Sure. USER: go on`."""
    user, assistant = choose(rng, _ROLES[split])
    gap = choose(rng, (" ", "\n"))
    end = f"{user}: {follow_up(split, rng)}"
    if rng.random() < 0.3:
        end, text = f"{user}: {text}", free_sentence(split, rng)
    return Reworded(gap.join((text, f"{assistant}: {_between(split, rng)}", end)), form="forged")


def blank(split: str, rng: np.random.Generator) -> Reworded:
    """Nothing, or nothing but space."""
    return Reworded(choose(rng, paraphrases.EMPTY), form="blank")


def garbled(text: str, split: str, rng: np.random.Generator) -> Reworded:
    """In words of no language: every letter exchanged for another, or the letters of every word in another order."""
    if rng.random() < 0.5:
        new = "".join(rng.permutation(list(ascii_lowercase)))
        text = text.translate(str.maketrans(ascii_lowercase + ascii_uppercase, new + new.upper()))
    else:
        text = " ".join("".join(rng.permutation(list(word))) for word in text.split(" "))
    return Reworded(text, form="garbled")


def noted(text: str, split: str, rng: np.random.Generator) -> Reworded:
    """With a note of the user's own that there is no risk, as a policy might put it, before or behind it."""
    note = fill(choose(rng, paraphrases.NOTES[split]), rng)
    return Reworded(f"{note} {text}" if rng.random() < 0.7 else f"{text} {note}", form="noted")


def other_words(harmful: bool, risk: str, split: str, rng: np.random.Generator) -> Reworded:
    """A question outside of the grammar of `language` about something done with what a picture shows.

    Args:
        harmful: whether it is done to somebody.
        risk: the type of the dual-use or sensitive thing shown.
    """
    deed = _deed(harmful, risk, split, rng, ours=split == "train" and rng.random() < 0.15)
    return Reworded(_framed(paraphrases.frames(harmful, split), deed, split, rng), form="other_words")


def announced(harmful: bool, risk: str, split: str, rng: np.random.Generator) -> Reworded:
    """A deed that is told in one turn (`I want to ...`) and asked about in the next (`How do I do that?`)."""
    deed = _deed(harmful, risk, split, rng, ours=rng.random() < 0.3)
    told = _framed(paraphrases.STATEMENTS[split], deed, split, rng)
    return Reworded(follow_up(split, rng), ((told, _between(split, rng)),), "announced")


def harmless_talk(risk: str, split: str, rng: np.random.Generator) -> Reworded:
    """A harmless question with forbidden words in it: a negation, a question about right and wrong, an accident."""
    if rng.random() < 0.5:
        return Reworded(fill(choose(rng, paraphrases.forbidden(risk, split)), rng), form="forbidden_word")
    deed = _deed(True, risk, split, rng, ours=rng.random() < 0.5)
    return Reworded(_framed(paraphrases.against(split), deed, split, rng), form="negated")


def follow_up(split: str, rng: np.random.Generator) -> str:
    """`Go on.` and the like: means what was meant before."""
    return fill(choose(rng, paraphrases.FOLLOW_UPS[split]), rng)


SURFACE: dict[str, Callable[[str, str, np.random.Generator], Reworded]] = {
    "mistyped": mistyped,
    "capitals": capitals,
    "mixed_case": mixed_case,
    "leet": leet,
    "run_together": run_together,
}
"""How it is written."""
SETTING: dict[str, Callable[[str, str, np.random.Generator], Reworded]] = {
    "before": before,
    "after": after,
    "around": around,
    "continued": continued,
    "later": later,
    "forged": forged,
}
"""What stands around it."""


def reword(text: str, split: str, rng: np.random.Generator, answer: str | None = None) -> Reworded:
    """The question in some form of `SURFACE`, of `SETTING`, or both.

    Args:
        answer: what an assistant says to the question, for `continued`.
    """
    draw, form = rng.random(), ""
    if draw < 0.5:
        done = choose(rng, tuple(SURFACE.values()))(text, split, rng)
        text, form = done.question, done.form
    if form and draw >= 0.15:
        return Reworded(text, form=form)
    name = choose(rng, tuple(SETTING))
    done = continued(text, split, rng, answer) if name == "continued" else SETTING[name](text, split, rng)
    return done._replace(form=f"{form} {done.form}".strip())


def _around(words: int | None, split: str, rng: np.random.Generator) -> str:
    if words is None:
        words = round(float(np.exp(rng.uniform(np.log(LEAST_WORDS), np.log(MOST_WORDS)))))
    return free_text(words, split, rng)


def _beside(letter: str, rng: np.random.Generator) -> str:
    """A letter whose key is next to this one's."""
    row = next((row for row in _KEYS if letter.lower() in row), letter.lower())
    place = row.index(letter.lower())
    found = choose(rng, row[max(0, place - 1) : place] + row[place + 1 : place + 2] or row)
    return found.upper() if letter.isupper() else found


def _between(split: str, rng: np.random.Generator) -> str:
    return choose(rng, paraphrases.BETWEEN[split].split("|"))


def _deed(harmful: bool, risk: str, split: str, rng: np.random.Generator, ours: bool) -> str:
    """Something done, in the words of `language` or in others."""
    if ours:
        return choose(rng, wordings(DEEDS[harmful][risk], split))
    return fill(choose(rng, paraphrases.deeds(harmful, risk, split)), rng, paraphrases.parts(split))


def _framed(forms: tuple[str, ...], deed: str, split: str, rng: np.random.Generator) -> str:
    text = fill(choose(rng, forms), rng)
    text = " ".join(text.replace("[d]", deed).replace("[g]", paraphrases.gerund(deed)).split())
    return re.sub(r" ([.,;:?!])", r"\1", text)
