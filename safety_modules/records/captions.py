"""Pictures with captions, for `tga`: records whose caption is in `meta["caption"]`; nothing in them says what is risky.

Nothing is guessed: whatever cannot be read as documented is reported with file, place and reason.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.images import has_picture_suffix, reference
from safety_modules.records.record import Problem, Record, raise_problems
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY

CAPTION = "caption"
"""Its key among what is known of a record."""
CAPTIONS = ("image_caption", "caption", "blip_caption")
"""Keys of a caption beside a conversation, the first that is there."""
MARK = "<image>"
SUFFIXES = {".txt": 0, ".caption": 1}

Item = tuple[str, Mapping[str, Any]]
"""Where it is, and what it has by the keys image, caption, question, answer."""


def read_captions(data: str | PathLike[str], image_dir: str | PathLike[str] | None = None) -> list[Record]:
    """Read pictures with captions.

    - LLaVA's JSON (a list; or JSON lines): `image` and `conversations`; the caption is under `image_caption`,
      `caption` or `blip_caption`, and the first exchange is a question about the picture. Without such a key the first
      answer is the caption, as in LLaVA's pre-training data, and there is no question.
    - COCO-like JSON: an object with `images` (`id`, `file_name`) and `annotations` (`image_id`, `caption`).
    - CSV with the columns `image` and `caption`, and perhaps `question` and `answer`.
    - A folder of pictures, each with a text file of the same name (`dog.png`, `dog.txt`).

    Args:
        data: the file or folder.
        image_dir: where relative names of pictures start; None = beside the file.

    Returns:
        The records, each with its caption in `meta["caption"]`; a question that is not known is empty.

    Raises:
        DataError: none of these formats, or naming every bad item by place and reason.

    Does not cover: whether the pictures can be decoded; training says so.
    """
    path = Path(data)
    folder = Path(image_dir) if image_dir is not None else path if path.is_dir() else path.parent
    records, problems = list[Record](), list[Problem]()
    for where, item in _items(path):
        try:
            records.append(_record(where, item, folder))
        except DataError as error:
            problems.append(Problem(source=where, reason=str(error)))
    raise_problems(problems, str(path))
    if not records:
        raise DataError(f"no captions: expected at least one picture with a caption in {path}, got none. Check it.")
    return records


def _record(where: str, item: Mapping[str, Any], folder: Path) -> Record:
    words = {}
    for key in (CAPTION, "question", "answer"):
        text = item.get(key)
        if text is not None and not isinstance(text, str):
            raise DataError(f"{key}: expected words, got {type(text).__name__}.")
        words[key] = (text or "").replace(MARK, "").strip()
    if not words[CAPTION]:
        raise DataError("no caption: expected words, got nothing.")
    return Record(
        image=reference(item.get("image"), where, folder),
        question=words["question"],
        answer=words["answer"] or None,
        type=CLEAN,  # nobody looks at it: no loss of this training has a label
        level=DEFAULT_TAXONOMY.levels[0],
        source=where,
        meta={CAPTION: words[CAPTION]},
    )


def _items(path: Path) -> Iterator[Item]:
    if path.is_dir():
        return _of_folder(path)
    readers: dict[str, Callable[[Path, str], Iterator[Item]]] = {
        ".json": _of_json,
        ".jsonl": _of_lines,
        ".csv": _of_csv,
    }
    if path.suffix not in readers:
        raise DataError(
            f"captions not read: expected a folder or a file of {', '.join(readers)}, got {path}. Name another."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"captions not read: expected a UTF-8 file, got {error}. Check the path.") from error
    return readers[path.suffix](path, text)


def _of_folder(path: Path) -> Iterator[Item]:
    for picture in sorted(path.rglob("*")):
        if picture.is_file() and has_picture_suffix(picture.name):
            texts = [one for suffix in SUFFIXES if (one := picture.with_suffix(suffix)).is_file()]
            try:
                caption = texts[0].read_text(encoding="utf-8-sig") if texts else None
            except (OSError, UnicodeDecodeError):
                caption = None
            yield str(picture), {"image": str(picture.relative_to(path)), CAPTION: caption}


def _of_json(path: Path, text: str) -> Iterator[Item]:
    found = _parsed(text, str(path))
    if isinstance(found, dict) and isinstance(found.get("annotations"), list) and isinstance(found.get("images"), list):
        names = {one.get("id"): one.get("file_name") for one in found["images"] if isinstance(one, dict)}
        for number, one in enumerate(found["annotations"]):
            item = one if isinstance(one, dict) else {}
            image = names.get(item.get("image_id"))
            yield f"{path}: annotation {number}", {"image": image, CAPTION: item.get(CAPTION)}
    elif isinstance(found, list):
        yield from (_of_conversation(f"{path}: item {number}", one) for number, one in enumerate(found))
    else:
        raise DataError(
            f"captions not read: expected a list of items, or an object with images and annotations, in {path}, got "
            f"{type(found).__name__}. Convert it."
        )


def _of_lines(path: Path, text: str) -> Iterator[Item]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield _of_conversation(where, _parsed(line, where))


def _of_conversation(where: str, item: Any) -> Item:
    if not isinstance(item, dict):
        return where, {}
    caption = next((item[key] for key in CAPTIONS if item.get(key)), None)
    turns = item.get("conversations")
    said = [one.get("value") for one in turns[:2] if isinstance(one, dict)] if isinstance(turns, list) else []
    question, answer = said if len(said) == 2 else (item.get("question"), item.get("answer"))
    if caption is None:
        return where, {"image": item.get("image"), CAPTION: answer}
    return where, {"image": item.get("image"), CAPTION: caption, "question": question, "answer": answer}


def _of_csv(path: Path, text: str) -> Iterator[Item]:
    rows = csv.DictReader(io.StringIO(text))
    missing = [name for name in ("image", CAPTION) if name not in (rows.fieldnames or ())]
    if missing:
        raise DataError(
            f"captions not read: expected the columns image and caption in {path}, got none named {missing[0]}. "
            "Rename them."
        )
    yield from ((f"{path}:{rows.line_num}", row) for row in rows)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"captions not read: expected JSON in {where}, got {error}. Correct it.") from error
