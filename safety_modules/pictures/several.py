"""What `classify` takes: one picture or many of any kind, one after the other, with what is asked about each."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from numbers import Real
from typing import Any, NamedTuple

from PIL import Image

from safety_modules.errors import GuardError
from safety_modules.pictures.arrays import as_array
from safety_modules.pictures.sources import is_encoded


class Asked(NamedTuple):
    """A picture, not opened yet, and the words that are asked about it; None = the picture alone."""

    picture: Any
    question: str | None


def asked_pictures(images: Any, questions: Any, size: int) -> Iterator[list[Asked]]:
    """Pictures with their questions, in batches; of a generator no more than a batch is held.

    Args:
        images: what `open_picture` takes; or a list, a generator, an array or tensor (N, ...), a column of a table or
            a dataset, nested at will.
        questions: words for all; one each (a list, a generator, a column); or None. None, NaN and empty words ask
            nothing.
        size: pictures in a batch.

    Raises:
        GuardError: something is no picture or no question, or not one question per picture.
    """
    pictures, asked, done = each_picture(images), _each_question(questions), 0
    if isinstance(images, list | tuple):  # all at hand: a wrong count is known before anything is judged
        held = list(pictures)
        pictures = iter(held)
        counted = asked is not None and not isinstance(questions, str) and isinstance(questions, Sized)
        if counted and len(questions) != len(held):
            raise _unequal(len(held), len(questions))
    while batch := list(islice(pictures, size)):
        words = [None] * len(batch) if asked is None else list(islice(asked, len(batch)))
        done += len(batch)
        if len(words) < len(batch):
            raise _unequal(done + sum(1 for _ in pictures), done - len(batch) + len(words))
        yield [Asked(*pair) for pair in zip(batch, words, strict=True)]
    if asked is not None and not isinstance(questions, str) and (left := sum(1 for _ in asked)):
        raise _unequal(done, done + left)


def each_picture(images: Any, where: str = "images") -> Iterator[Any]:
    """The single pictures, as they are, one after the other. Raises GuardError for what is none."""
    if _is_one(images):
        yield images
        return
    array = as_array(images)
    numbers = array is not None and array[0].dtype.kind != "O"
    rows = isinstance(images, Iterable) and not isinstance(images, str | bytes | Mapping)
    if not rows or hasattr(images, "iterrows") or (array is not None and numbers and array[0].ndim != 4):
        got = f"an array of shape {array[0].shape}" if array is not None else type(images).__name__
        raise GuardError(
            f"nothing judged: expected pictures (paths, bytes, PIL images, arrays, tensors), got {got} as {where}. "
            "Pass a picture, or a list or column of them."
        )
    for number, one in enumerate(images):
        yield from each_picture(one, f"{where}[{number}]")


def question_words(question: Any, where: str = "question") -> str | None:
    """The words, or None where nothing is asked: None, NaN, NA, blank. Raises GuardError for anything else."""
    if isinstance(question, str):
        return question if question.strip() else None
    missing = type(question).__name__ in ("NAType", "NaTType")  # pandas', which equal nothing either
    if question is None or missing or (isinstance(question, Real) and question != question):
        return None
    raise GuardError(
        f"nothing judged: expected words, or None for no question, got {type(question).__name__} as {where}. "
        "Pass one question for all, or one each."
    )


def _is_one(images: Any) -> bool:
    if isinstance(images, Image.Image) or is_encoded(images):
        return True
    array = as_array(images)
    return array is not None and array[0].ndim in (2, 3) and array[0].dtype.kind != "O"


def _each_question(questions: Any) -> Iterator[str | None] | None:
    if questions is None:
        return None
    if isinstance(questions, str):
        words = question_words(questions)
        return None if words is None else _forever(words)
    if not isinstance(questions, Iterable) or isinstance(questions, bytes | Mapping):
        question_words(questions)  # NaN for all asks nothing
        return None
    return (question_words(one, f"questions[{number}]") for number, one in enumerate(questions))


def _forever(words: str) -> Iterator[str]:
    while True:
        yield words


def _unequal(pictures: int, questions: int) -> GuardError:
    return GuardError(
        f"nothing judged: expected one question per image ({pictures}), got {questions}. "
        "Pass one question for all, or one each."
    )
