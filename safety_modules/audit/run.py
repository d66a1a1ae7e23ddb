"""audit: find the risky images of a dataset. Interrupted at any moment, the same call goes on where it stopped."""

import json
import os
from importlib.metadata import version
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from safety_modules.audit.loop import CHUNK_ROWS, PART_ROWS, Auditor
from safety_modules.audit.scorer import Scorer
from safety_modules.audit.store import KEY, SUMMARY, VERDICTS, Store, check_place, remove_parts
from safety_modules.audit.summary import summarise
from safety_modules.errors import DataError
from safety_modules.io.files import write_json
from safety_modules.io.progress import say, track
from safety_modules.io.run_manifest import begin_run
from safety_modules.pictures import reading
from safety_modules.pocket.base import notice
from safety_modules.policy.policy import Policy
from safety_modules.records.formats import FORMATS
from safety_modules.records.formats.base import Format
from safety_modules.records.readers import recognise
from safety_modules.records.source import UNKNOWN_KEY, ReadOptions, Source
from safety_modules.version import __version__

Pathlike = str | PathLike[str]
MOST_WORKERS = 16


def audit(
    data: Pathlike,
    out: Pathlike,
    base: Pathlike,
    adapter: Pathlike,
    *,
    image_dir: Pathlike | None = None,
    image_key: str | None = None,
    format: str | None = None,
    question: str | None = None,
    streaming: bool = False,
    policy: Policy | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Judge every picture of a dataset, with the questions that are asked about it, and write what was found.

    Into `out` go verdicts.parquet (a row for each row of the data), flagged.parquet (what a report shows of flagged
    ones) and summary.json; docs/audit.md describes them. No language model is loaded, and memory does not grow with the
    data.

    Args:
        data: file, folder, shards or hf:// address, in any format of docs/data.md; labels are not required.
        out: folder for the results; the same call on it goes on where an interrupted one stopped.
        base: folder of the base model.
        adapter: folder of the adapter, or its id on the hub.
        image_dir: where relative image paths start; default: beside the data.
        image_key: the key or column that names the pictures, or several with commas between them; default: those of
            docs/data.md.
        format: of the data; None = recognised.
        question: of pictures in folders: what is asked about each; None = pictures alone.
        streaming: hf: read while loading.
        policy: decides what is flagged; default: Policy.default().
        device: default: CUDA where there is one.
        dtype: of the tower; default: bfloat16 on CUDA, float32 on the CPU.
        batch_size: pictures in one run of the tower; default: 128 on CUDA, 32 on the CPU.
        workers: decoding processes; default: all cores but one, at most 16; 0 = decode in this process.
        progress: show bars.

    Returns:
        What summary.json holds.

    Raises:
        DataError: the format is not clear, there are no rows, the data cannot be read, or `out` holds another audit.
        AttachError: the base cannot be read.
        AdapterError: the adapter is refused.
    """
    folder = Path(out)
    check_place(folder)
    scorer = Scorer(base, adapter, policy, device=device, dtype=dtype)
    guard = scorer.guard
    taxonomy = guard.config.taxonomy
    options = ReadOptions(format, image_dir, image_key, question=question, streaming=streaming)
    source = Source(fspath(data), taxonomy, options)
    form = FORMATS[recognise(source, strict=False)]
    size = batch_size or (128 if scorer.device.startswith("cuda") else 32)
    about = {
        "adapter": {"path": str(adapter), "digest": guard.digest},
        "base": guard.fingerprint,
        "data": {
            "path": source.path,
            "format": form.name,
            "image_dir": None if image_dir is None else fspath(image_dir),
            "image_key": image_key,
            "question": question,
        },
        "thresholds": guard.limits,
    }
    key = {
        **about,
        "version": __version__,
        "pictures": reading(),
        "policy": guard.policy.model_dump(mode="json"),
        "file": _state(source.file),
        "dtype": scorer.dtype,
        "batch": [size, CHUNK_ROWS, PART_ROWS],  # the shape of a batch decides the last digit of a probability
    }
    begin_run(folder / KEY, key, error=DataError)
    if (folder / SUMMARY).is_file():
        remove_parts(folder)
        done: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return done
    store = Store(folder, taxonomy)
    try:
        if workers is None:  # all cores but the one that feeds the tower
            workers = min(MOST_WORKERS, max(1, (os.cpu_count() or 2) - 1))
        auditor = Auditor(guard, guard.pixels.decoder, store, size, workers)
        if store.rows:
            say(f"resuming at row {store.rows:,}", progress)
        total = None if streaming else _count(source, form, progress)
        source.left_out.clear()
        with track("judged", total, progress) as advance:
            auditor.run(form.rows(source), advance)
        if not store.rows:
            passed = ", ".join(f"{count} {what}" for what, count in source.left_out.items()) or "nothing"
            raise DataError(
                f"nothing to audit: expected pictures in {data}, got {passed}. Check the path and the format."
            )
        store.finish()
        pictures, seconds = store.effort
        summary = {
            **summarise(store.tables(VERDICTS), taxonomy, guard.policy.outside_significance, guard.calibrated),
            **about,
            "notice": notice(guard.fingerprint),
            "fit": "crop" if guard.backbone.sizes.tile is None else "stretch",
            "left_out": dict(source.left_out),
            "seconds": round(seconds, 1),
            "pictures": pictures,
            "images_per_second": round(pictures / max(seconds, 1e-9), 2),
            "time": {what: round(spent, 1) for what, spent in sorted(auditor.time.items())},
            "device": scorer.device,
            "dtype": scorer.dtype,
            "versions": {"safety-modules": __version__, **{lib: version(lib) for lib in ("torch", "transformers")}},
        }
    finally:
        store.close()
    write_json(folder / SUMMARY, summary)
    remove_parts(folder)
    return summary


def _count(source: Source, form: Format, progress: bool) -> int:
    """Rows of the data, without its pictures, so that the bar can say when all is done.

    Raises:
        DataError: no row has a picture, but there are some under a key that is not looked at.
    """
    total, any_picture, unknown = 0, False, None
    with track("counting rows", None, progress) as advance:
        for row in form.rows(source, pictures=False):
            total += 1
            any_picture |= row.image is not None
            unknown = unknown or (row.fault if (row.fault or "").startswith(UNKNOWN_KEY) else None)
            if total % 1000 == 0:
                advance(1000)
    if unknown and not any_picture:
        raise DataError(f"nothing to audit in {source.path}: {unknown}")
    return total


def _state(file: Path) -> list[int] | None:
    """Size and time of a file: another one at the same path is another run's."""
    if not file.is_file():
        return None
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]
