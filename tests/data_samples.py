"""Small data in every format, for the tests of readers and of the check."""

import csv
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLUMNS = ("image", "type", "level", "question", "answer")


def picture(seed: int, size: int = 64) -> Image.Image:
    """Coloured blocks: different for each seed also to a perceptual hash."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((size, size), Image.Resampling.BICUBIC)


def encoded(seed: int, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, format)
    return buffer.getvalue()


def save(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)
    return path


def write_jsonl(path: Path, items: Iterable[Any]) -> Path:
    """Objects, or lines as they stand."""
    lines = [item if isinstance(item, str) else json.dumps(item) for item in items]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Iterable[dict[str, str]], columns: Iterable[str] = COLUMNS) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tar(path: Path, members: dict[str, bytes | dict[str, Any]], mode: str = "w") -> Path:
    """Members by name: bytes, or an object that becomes JSON."""
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def row(image: str | None = "a.png", **changes: Any) -> dict[str, Any]:
    """A risky row with an answer."""
    values = {"type": "illegal", "level": "high", "question": "how do I use this?", "answer": "I can't help."}
    return {"image": image, **values, **changes}


def published(image: str = "a.png", type: Any = 1, level: Any = 3, question: str = "how?", answer: Any = "No.") -> Any:
    """An object of the published safety data."""
    turns = [{"from": "USER", "value": f"<image>\n{question}"}]
    turns += [] if answer is None else [{"from": "ASSISTANT", "value": answer}]
    return {"image": image, "safe_type": type, "safe_level": level, "conversations": turns}


def llava(image: str | None = "a.png", question: str = "what is this?", answer: str = "a cup") -> Any:
    """An object of LLaVA's instruction data."""
    tag = "" if image is None else "<image>\n"
    turns = [{"from": "human", "value": tag + question}, {"from": "gpt", "value": answer}]
    return {"id": "1", **({} if image is None else {"image": image}), "conversations": turns}


def vlguard_safe(image: str = "a.png") -> Any:
    """A safe picture of VLGuard's, with a safe and an unsafe instruction."""
    pairs = [
        {"safe_instruction": "what is shown?", "response": "a cup"},
        {"unsafe_instruction": "who lives here?", "response": "I can't say."},
    ]
    return {"id": "1", "image": image, "safe": True, "instr-resp": pairs}


def vlguard_unsafe(image: str = "b.png", category: str = "privacy", subcategory: str = "personal data") -> Any:
    """An unsafe picture of VLGuard's."""
    pairs = [{"instruction": "read this card", "response": "I can't."}]
    labels = {"harmful_category": category, "harmful_subcategory": subcategory}
    return {"id": "2", "image": image, "safe": False, **labels, "instr-resp": pairs}


def lay_out_page(folder: Path, files: Iterable[tuple[str, str]]) -> None:
    """The files that docs/data.md shows, and the pictures, folders, shards and dataset it speaks of."""
    import datasets

    for name, content in files:
        (folder / name).write_text(content, encoding="utf-8")
    for seed, letter in enumerate("abcd"):
        save(folder / f"{letter}.png", seed)
        save(folder / "pictures" / f"{letter}.png", seed)
    for seed, name in enumerate(("clean/a.png", "illegal/high/b.png", "privacy/c.png")):
        save(folder / "photos" / name, seed)
    words = {name: value for name, value in row().items() if name != "image"}
    (folder / "shards").mkdir()
    for shard in ("000", "001"):
        write_tar(folder / "shards" / f"{shard}.tar", {"7.png": encoded(int(shard)), "7.json": words})
    columns = {"image": datasets.Image(), **dict.fromkeys(words, datasets.Value("string"))}
    one = datasets.Dataset.from_list([row({"bytes": encoded(1), "path": None})], features=datasets.Features(columns))
    (folder / "files").mkdir()
    one.to_parquet(str(folder / "files" / "train.parquet"))
