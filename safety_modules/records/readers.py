"""Readers for the two file formats that LLaVA safety data comes in.

They never guess: whatever cannot be read exactly as documented is reported with file, line and reason, and
nothing is returned.
"""

import json
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.errors import ConfigError, DataError
from safety_modules.records.record import Record, label_problems, raise_problems
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY, Taxonomy

_IMAGE_TAG = re.compile(r"\s*<image>\s*")
_USER, _ASSISTANT = ("user", "human"), ("assistant", "gpt")


def read_records(
    path: str | PathLike[str],
    image_dir: str | PathLike[str] | None = None,
    taxonomy: Taxonomy = DEFAULT_TAXONOMY,
) -> list[Record]:
    """Read a data file; its suffix names the format.

    - `.jsonl`: the published safety data (arXiv 2405.13581), one object a line:
      `{"image": "x.jpg", "safe_type": 0..6, "safe_level": 0..3, "conversations": [{"from": "USER", "value":
      "<image>\\n..."}, {"from": "ASSISTANT", "value": "..."}]}`; `safe_type` and `safe_level` are class
      indices of the taxonomy. The assistant's turn may be missing.
    - `.json`: LLaVA's instruction data, one list of objects with `conversations` and an optional `image`; all
      of it counts as clean. An object with a `safe_type` or `safe_level` is refused: that file is mislabelled
      or misnamed.

    A conversation of several question-answer pairs becomes one record for each pair.

    Args:
        path: the file.
        image_dir: where relative image paths start; default: the file's folder.
        taxonomy: names of the class indices.

    Raises:
        DataError: naming every bad record by file, line (or item) and reason. Nothing is returned then.

    Does not cover: whether the pictures can be decoded; that shows when features are made.
    """
    path = Path(path)
    folder = Path(image_dir) if image_dir is not None else path.parent
    if path.suffix not in (".jsonl", ".json"):
        raise DataError(
            f"unknown data format: expected .jsonl (safety data) or .json (LLaVA clean data), got {path}. "
            "Convert or rename the file."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data not read: expected a UTF-8 file, got {error}. Check the path.") from error

    labelled = path.suffix == ".jsonl"
    records: list[Record] = []
    problems: list[str] = []
    for where, item in _items(path, text, labelled, problems):
        try:
            found = _parse(item, folder, taxonomy, labelled)
            bad = [problem for record in found for problem in label_problems(record, taxonomy)]
        except (DataError, ConfigError) as error:
            found, bad = [], [str(error)]
        records += found
        problems += [f"{where}: {problem}" for problem in dict.fromkeys(bad)]
    if not records and not problems:
        problems = ["expected at least one record, got none."]
    raise_problems(problems, str(path))
    return records


def _items(path: Path, text: str, lines: bool, problems: list[str]) -> list[tuple[str, Any]]:
    """(place, parsed value) of everything in the file that is JSON; the rest goes to `problems`."""
    found: list[tuple[str, Any]] = []
    if lines:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    found.append((f"{path}:{number}", json.loads(line)))
                except (ValueError, RecursionError) as error:
                    problems.append(f"{path}:{number}: not JSON: {error}.")
        return found
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.append(f"{path}: not JSON: {error}.")
        return found
    if not isinstance(value, list):
        problems.append(f"{path}: expected a list of objects, got {type(value).__name__}.")
        return found
    return [(f"{path} item {number}", item) for number, item in enumerate(value)]


def _parse(item: Any, folder: Path, taxonomy: Taxonomy, labelled: bool) -> list[Record]:
    if not isinstance(item, dict):
        raise DataError(f"expected an object, got {type(item).__name__}.")
    image = _image(item, folder, labelled)
    type_name, level = CLEAN, taxonomy.safe_level
    if labelled:
        type_name = _name(item, "safe_type", taxonomy.labels)
        level = _name(item, "safe_level", taxonomy.levels)
    elif "safe_type" in item or "safe_level" in item:
        raise DataError("expected clean data without labels, got safe_type or safe_level. Use .jsonl.")
    pairs = _pairs(item.get("conversations"), needs_answer=not labelled)
    tags = [question.count("<image>") for question, _ in pairs]
    expected = [1 if image is not None else 0] + [0] * (len(pairs) - 1)
    if tags != expected:
        raise DataError(
            f"<image> count: expected {expected} by question (one, in the first, if there is an image), got {tags}."
        )
    return [Record(image=image, question=_words(q), answer=answer, type=type_name, level=level) for q, answer in pairs]


def _image(item: dict[str, Any], folder: Path, required: bool) -> Path | None:
    name = item.get("image")
    if name is None and not required:
        return None
    if not isinstance(name, str) or not name:
        raise DataError(f"image: expected a file name, got {name!r}.")
    path = folder / name
    if not path.is_file():
        raise DataError(f"image: expected a file, got nothing at {path}.")
    return path


def _name(item: dict[str, Any], key: str, names: Sequence[str]) -> str:
    value = item.get(key)
    if type(value) is not int or not 0 <= value < len(names):  # bool is an int: True must not read as 1
        raise DataError(f"{key}: expected an integer 0..{len(names) - 1}, got {value!r}.")
    return names[value]


def _pairs(turns: Any, needs_answer: bool) -> list[tuple[str, str | None]]:
    if not isinstance(turns, list) or not turns:
        raise DataError(f"conversations: expected a list of turns, got {turns!r}.")
    said: list[str] = []
    for index, turn in enumerate(turns):
        wanted = _ASSISTANT if index % 2 else _USER
        speaker = turn.get("from") if isinstance(turn, dict) else None
        value = turn.get("value") if isinstance(turn, dict) else None
        if not isinstance(speaker, str) or speaker.lower() not in wanted or not isinstance(value, str):
            raise DataError(
                f"conversations: expected turn {index} to be {{'from': {wanted[0].upper()!r}, 'value': text}}"
                f", got {turn!r}."
            )
        said.append(value)
    answers: list[str | None] = [*said[1::2]]
    if len(said) % 2:
        if needs_answer or len(said) > 1:
            raise DataError("conversations: expected an answer to every question, got none for the last.")
        answers.append(None)
    return list(zip(said[0::2], answers, strict=True))


def _words(question: str) -> str:
    return _IMAGE_TAG.sub("\n", question).strip()
