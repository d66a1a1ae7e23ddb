"""Whether the audit finds in every form of a file what it finds in a plain PNG of what a viewer sees.

    python benchmarks/picture_forms.py              # 300 attacks of llava-pocket in 24 forms
    python benchmarks/picture_forms.py --pictures 8

For each form: how many attacks are found as plain PNG, how many of these in the form, and the largest difference of a
risk (0 where the form loses nothing). Transparent forms are judged as the installed transformers shows them to a model:
on white from 5.x on; before, without their transparency, and so is the plain PNG that they are held against.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from safety_modules import pocket
from safety_modules.audit import audit
from safety_modules.paths import adapter_dir, checkpoint_dir

WANTED = 0.99
ORIENTATION = 0x0112
STORED = {  # how a camera that was held so stores the picture
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Form(NamedTuple):
    """How a picture is saved.

    Attributes:
        ending: of the file's name.
        change: the picture as it is saved.
        seen: the same picture as a plain RGB one.
        options: of `Image.save`.
        exact: whether the file loses nothing.
    """

    ending: str
    change: Callable[[Image.Image], Image.Image]
    seen: Callable[[Image.Image], Image.Image]
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    exact: bool = True


def rgb(image: Image.Image) -> Image.Image:
    """A plain one."""
    return image.convert("RGB")


def grey(image: Image.Image) -> Image.Image:
    """Without its colours, in RGB."""
    return image.convert("L").convert("RGB")


def cut_out(image: Image.Image) -> Image.Image:
    """Black ink on nothing, as a designer exports it: opaque where the picture differs from its corner."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    alpha = np.clip(2 * np.abs(pixels - pixels[0, 0]).sum(2), 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([np.zeros(pixels.shape, np.uint8), alpha]))


def palette(image: Image.Image) -> Image.Image:
    """Black ink, and colour 0 for nothing: transparent once it is saved so."""
    ink = Image.fromarray((np.asarray(cut_out(image))[..., 3] > 100).astype(np.uint8)).convert("P")
    ink.putpalette([255, 0, 0, 0, 0, 0])
    ink.info["transparency"] = 0
    return ink


def shown(change: Callable[[Image.Image], Image.Image]) -> Callable[[Image.Image], Image.Image]:
    """What the installed transformers shows a model of a transparent picture."""

    def made(image: Image.Image) -> Image.Image:
        try:
            return Image.fromarray(convert_to_rgb(change(image), return_numpy=True))
        except TypeError:  # before 5.x
            return convert_to_rgb(change(image))

    return made


def turned(orientation: int) -> Form:
    """As a phone stores it."""
    exif, how = Image.Exif(), STORED[orientation]
    exif[ORIENTATION] = orientation
    change = rgb if how is None else lambda image: rgb(image).transpose(how)
    return Form("jpg", change, rgb, {"quality": 97, "subsampling": 0, "exif": exif}, exact=False)


def sixteen(image: Image.Image) -> Image.Image:
    """Grey levels of 0 to 65535."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def floats(image: Image.Image) -> Image.Image:
    """Grey levels of 0 to 1."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)


FORMS = {
    **{f"JPEG, EXIF orientation {number}": turned(number) for number in STORED},
    "RGBA PNG": Form("png", cut_out, shown(cut_out)),
    "LA PNG": Form("png", lambda image: cut_out(image).convert("LA"), shown(cut_out)),
    "palette PNG with a transparent colour": Form("png", palette, shown(palette), {"transparency": 0}),
    "GIF with a transparent colour": Form("gif", palette, shown(palette), {"transparency": 0}),
    "RGBA WebP": Form("webp", cut_out, shown(cut_out), {"lossless": True, "exact": True}),
    "RGBA TIFF": Form("tiff", cut_out, shown(cut_out)),
    "JPEG": Form("jpg", rgb, rgb, {"quality": 95}, exact=False),
    "JPEG, CMYK": Form("jpg", lambda image: rgb(image).convert("CMYK"), rgb, {"quality": 97}, exact=False),
    "WebP": Form("webp", rgb, rgb, {"quality": 95}, exact=False),
    **(
        {"AVIF": Form("avif", rgb, rgb, {"quality": 95}, exact=False)}
        if ".avif" in Image.registered_extensions()
        else {"JPEG 2000": Form("jp2", rgb, rgb)}  # before Pillow 11.3
    ),
    "BMP": Form("bmp", rgb, rgb),
    "TIFF, LZW": Form("tif", rgb, rgb, {"compression": "tiff_lzw"}),
    "PNG, palette": Form("png", lambda image: rgb(image).quantize(256), rgb, exact=False),
    "PNG, 1 bit": Form("png", lambda image: rgb(image).convert("1"), lambda image: rgb(rgb(image).convert("1"))),
    "PNG, 16 bits": Form("png", sixteen, grey),
    "TIFF, floats of 0 to 1": Form("tiff", floats, grey),
}


def save(form: Form, image: Image.Image, path: Path) -> Path:
    """The picture in that form, and what it is held against beside it."""
    file, plain = path.with_suffix(f".{form.ending}"), path.with_suffix(".plain.png")
    form.change(image).save(file, **form.options)
    form.seen(image).save(plain)
    return file


def measure(folder: Path, pictures: list[Image.Image], workers: int = 0) -> dict[str, dict[str, Any]]:
    """Audit every picture in every form; by form: `plain` (found as plain PNG), `found` of these, `difference`."""
    import pyarrow.parquet as pq

    data = folder / "pictures"
    for name, form in FORMS.items():
        (data / name).mkdir(parents=True)
        for number, image in enumerate(pictures):
            save(form, image, data / name / f"{number:04d}")
    audit(data, folder / "out", checkpoint_dir(), adapter_dir(), workers=workers, progress=False)
    columns = ["source", "flagged", "risk", "duplicate_of", "error"]
    rows = pq.read_table(folder / "out" / "verdicts.parquet", columns=columns).to_pylist()
    for row in rows:
        assert row["error"] is None, row["error"]
        first = rows[row["duplicate_of"]] if row["duplicate_of"] is not None else row
        row["flagged"], row["risk"] = first["flagged"], first["risk"]
    found: dict[str, dict[str, Any]] = {}
    for name in FORMS:
        mine = {Path(row["source"]).name: row for row in rows if Path(row["source"]).parent.name == name}
        plain = {key.split(".")[0]: row for key, row in mine.items() if key.endswith(".plain.png")}
        pairs = [(plain[key.split(".")[0]], row) for key, row in mine.items() if not key.endswith(".plain.png")]
        assert len(pairs) == len(pictures)
        found[name] = {
            "plain": sum(one["flagged"] for one, _ in pairs),
            "found": sum(one["flagged"] and other["flagged"] for one, other in pairs),
            "difference": max(abs(one["risk"] - other["risk"]) for one, other in pairs),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    args = parser.parse_args()
    half = (args.pictures + 1) // 2
    samples = pocket.make("attack", half, split="validation")
    samples += pocket.make("attack_typographic", args.pictures - half, split="validation")
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), [sample.image for sample in samples], args.workers)
    print(
        f"transformers {transformers.__version__}, {args.pictures} attacks; found as plain PNG, of these in the form:"
    )
    for name, row in found.items():
        share = row["found"] / row["plain"] if row["plain"] else float("nan")
        print(f"{name:40} {row['plain']:4} {row['found']:4} {share:7.1%}  largest difference {row['difference']:.1e}")
    worst = min((row["found"] / row["plain"] for row in found.values() if row["plain"]), default=float("nan"))
    print(f"{len(found)} forms; the lowest share is {worst:.1%} (wanted: {WANTED:.0%})")
    if args.json:
        args.json.write_text(json.dumps({"transformers": transformers.__version__, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
