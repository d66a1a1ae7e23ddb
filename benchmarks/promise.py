"""Is the promise of calibration kept? Thresholds from many random draws of benign pictures, measured on fresh ones.

python benchmarks/promise.py
python benchmarks/promise.py --draws 5 --fresh 2000
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from script import command_line, keep, run

from safety_modules.attach.attach import SafetyAttachment
from safety_modules.cli.options import Adapter, Json, Overwrite, attach, new_file
from safety_modules.errors import DataError
from safety_modules.evaluation.results import settings
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.metrics import Estimate, rate
from safety_modules.pocket import mix
from safety_modules.training.corpus import Corpus
from safety_modules.training.predictions import corpus_judgements
from safety_modules.training.thresholds import any_flagged, promised_limits

DRAWS, IMAGES, FRESH = 20, 470, 20_000
"""470 pictures: the most for which a promise of 1 % allows no flagged one, so that it is kept in 99 of 100 draws."""


def evaluate_promise(
    attachment: SafetyAttachment,
    draws: int = DRAWS,
    images: int = IMAGES,
    fresh: int = FRESH,
    *,
    pool: int | None = None,
    max_false_alarm: float = 0.01,
    confidence: float = 0.95,
    per_type: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Calibrate again and again, and count how often fresh pictures keep the promised rate.

    All pictures are benign ones of pocket's validation split, half of them in its unseen style. The attachment's own
    thresholds stay as they are.

    Args:
        attachment: safety on a pocket model.
        draws: calibrations.
        images: pictures of each.
        fresh: pictures that every calibration is measured on, and none is made with.
        pool: pictures that the draws are taken from; None = draws x images, so that no two share one.
        max_false_alarm: as for `calibrate`.
        confidence: as for `calibrate`.
        per_type: as for `calibrate`.
        seed: of pictures and draws.
        progress: show bars.

    Returns:
        Plain JSON types: `kept` of `draws`, and of each draw its thresholds and the realised rate with its interval.

    Raises:
        DataError: too few images for the promise, or a pool smaller than a draw.

    Does not cover: pictures of another kind than the calibration's.
    """
    size = draws * images if pool is None else pool
    if size < images or min(draws, fresh) < 1:
        raise DataError(
            f"promise not measured: expected draws, fresh pictures and a pool of at least {images}, got {draws}, "
            f"{fresh} and {size}. Raise them."
        )
    types = attachment.config.taxonomy.types
    groups = [[place] for place in range(len(types))] if per_type else None
    promised_limits(np.zeros((images, len(types))), max_false_alarm, confidence, groups)  # too few: refused before work
    scores = _scores(attachment, size, 2 * seed, progress)
    unseen = _scores(attachment, fresh, 2 * seed + 1, progress)
    rng = np.random.default_rng(seed)
    order = rng.permutation(size)
    rows: list[dict[str, Any]] = []
    for number in range(draws):
        chosen = order[number * images : (number + 1) * images] if size >= draws * images else None
        drawn = scores[rng.choice(size, images, replace=False) if chosen is None else chosen]
        limits = promised_limits(drawn, max_false_alarm, confidence, groups)
        found = rate(any_flagged(unseen, limits).tolist())
        rows.append(
            {
                "thresholds": dict(zip(types, limits.tolist(), strict=True)),
                "calibration_flagged": int(any_flagged(drawn, limits).sum()),
                "false_alarms": found.value,
                "low": found.low,
                "high": found.high,
                "kept": found.value <= max_false_alarm,
            }
        )
    return {
        "suite": "promise",
        "settings": settings(images, seed) | {"split": "validation", "fresh": fresh, "pool": size},
        "max_false_alarm": max_false_alarm,
        "confidence": confidence,
        "per_type": per_type,
        "draws": draws,
        "kept": sum(row["kept"] for row in rows),
        "worst": max(row["false_alarms"] for row in rows),
        "rows": rows,
    }


def _scores(attachment: SafetyAttachment, count: int, seed: int, progress: bool) -> np.ndarray:
    """Rule scores (count, types) of benign pictures."""
    corpus = Corpus.make(
        attachment.backbone, mix.calibration_records(count, seed=seed), None, progress, attachment.modules
    )
    return corpus_judgements(attachment, corpus).scores


def print_promise(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `evaluate_promise` returned."""
    console = console or Console()
    chosen = results["settings"]
    title = (
        f"promise: at most {results['max_false_alarm']:.1%} of benign pictures flagged, confidence "
        f"{results['confidence']:.0%}; {chosen['samples']} pictures a draw, {chosen['fresh']} fresh ones"
    )
    columns = ("draw", "thresholds", "flagged in the draw", "fresh ones flagged, %", "kept")
    table = terminal_table(title, *columns, left=0)
    for number, row in enumerate(results["rows"], 1):
        limits = sorted(set(row["thresholds"].values()))
        shown = f"{limits[0]:.2f}" if len(limits) == 1 else f"{limits[0]:.2f} to {limits[-1]:.2f}"
        found = Estimate(row["false_alarms"], row["low"], row["high"], chosen["fresh"])
        kept = "[green]yes[/green]" if row["kept"] else "[red]no[/red]"
        table.add_row(str(number), shown, str(row["calibration_flagged"]), found.percent(2), kept)
    console.print(table)
    console.print(f"kept in {results['kept']} of {results['draws']} draws; worst {results['worst']:.2%}")


def promise(
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    draws: Annotated[int, typer.Option(min=1, help="Calibrations.")] = DRAWS,
    samples: Annotated[int, typer.Option(min=1, help="Benign pictures of each.")] = IMAGES,
    fresh: Annotated[int, typer.Option(min=1, help="Fresh ones to measure on.")] = FRESH,
    pool: Annotated[
        int | None, typer.Option(min=1, help="Pictures the draws come from; default: enough for no two to share one.")
    ] = None,
    max_false_alarm: Annotated[float, typer.Option(help="The promised rate.")] = 0.01,
    per_type: Annotated[bool, typer.Option("--per-type", help="A threshold for each risk type.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Is the promise of calibration kept? Many calibrations on pocket, each measured on fresh benign pictures."""
    new_file(json_file, overwrite)
    limits: dict[str, Any] = {"pool": pool, "max_false_alarm": max_false_alarm, "per_type": per_type}
    results = evaluate_promise(attach(None, adapter), draws, samples, fresh, **limits, seed=seed)
    print_promise(results)
    keep(results, json_file)


app = command_line(promise)


if __name__ == "__main__":
    run(app)
