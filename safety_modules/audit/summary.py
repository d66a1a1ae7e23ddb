"""What an audit found, in numbers: summary.json. One pass over the parts, in constant memory."""

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from safety_modules.audit.loop import TEXT_ONLY
from safety_modules.policy.outside import Calibrated, outsiders
from safety_modules.policy.scores import log_ratio
from safety_modules.taxonomy import Taxonomy

LISTED = 1000
"""Errors, and label disagreements, that are listed; verdicts.parquet has all."""
BINS, SPAN = 50, 10.0
"""Of the histogram of scores: from -SPAN to SPAN, with all beyond in the outermost."""
SURE = 0.5
SAMPLED = 20_000
"""Most p-values, and risks, that are held at a time."""


def summarise(
    tables: Iterable[Any], taxonomy: Taxonomy, significance: float = 0.01, calibrated: Calibrated | None = None
) -> dict[str, Any]:
    """Counts and lists.

    A row's own label is doubted where another class has at least half of the probability, and, if that class is a risk,
    a rule fired; those with the least probability of their own label are listed first.

    Args:
        tables: of verdicts, in order.
        taxonomy: names and order of the classes.
        significance: the p-value up to which a picture is outside of what was trained.
        calibrated: what is known of the calibration's pictures.
    """
    moving = Counter(rows=0, frames=0, judged=0)
    counts = Counter(rows=0, scored=0, duplicates=0, unreadable=0, text_only=0, flagged=0)
    by_type, by_level = Counter[str](), Counter[str]()
    histogram = np.zeros(BINS, dtype=int)
    errors: list[dict[str, Any]] = []
    doubted, listed = 0, list[tuple[float, int, dict[str, Any]]]()
    strange, some, share, rng = Counter(known=0, outside=0), np.zeros((0, 2)), 1.0, np.random.default_rng(0)
    for table in tables:
        both = np.stack([table["outside"].to_numpy(), table["risk"].to_numpy()], 1)
        both = both[~np.isnan(both[:, 0])]
        strange.update(known=len(both), outside=int((both[:, 0] <= significance).sum()))
        some = np.concatenate([some, both[rng.random(len(both)) < share]])
        while len(some) > SAMPLED:  # an even sample of all so far
            some, share = some[rng.random(len(some)) < 0.5], share / 2
        error, copy = table["error"].to_pylist(), table["duplicate_of"].is_valid().to_numpy()
        faulty = np.array([reason is not None for reason in error], dtype=bool)
        words = np.array([reason == TEXT_ONLY for reason in error], dtype=bool)
        scored = ~faulty & ~copy
        parts = {"scored": scored, "duplicates": copy, "unreadable": faulty & ~words, "text_only": words}
        counts.update(rows=len(error), **{name: int(part.sum()) for name, part in parts.items()})
        flagged = table.filter(table["flagged"])
        counts["flagged"] += len(flagged)
        by_type.update(flagged["type"].to_pylist())
        by_level.update(flagged["level"].to_pylist())
        score = log_ratio(table["risk"].to_numpy()[scored]).clip(-SPAN, SPAN)
        histogram += np.histogram(score, BINS, (-SPAN, SPAN))[0]
        for at in np.flatnonzero(faulty & ~words)[: LISTED - len(errors)].tolist():
            errors.append({"row": table["row"][at].as_py(), "source": table["source"][at].as_py(), "reason": error[at]})
        more = _doubted(table, taxonomy)
        doubted += len(more)
        listed = heapq.nsmallest(LISTED, [*listed, *more], key=lambda one: one[:2])
        frames, looked = (table[name].to_numpy()[scored] for name in ("frames", "frames_judged"))
        several = frames > 1
        moving.update(rows=int(several.sum()), frames=int(frames[several].sum()), judged=int(looked[several].sum()))
    known = outsiders(some[:, 0], significance, some[:, 1], calibrated)
    if known is not None:
        known = known._replace(pictures=strange["known"], share=strange["outside"] / strange["known"])
    return {
        **counts,
        "outside": None if known is None else known._asdict(),
        "by_type": {name: by_type[name] for name in taxonomy.types},
        "by_level": {name: by_level[name] for name in taxonomy.levels},
        "histogram": histogram.tolist(),
        "animations": dict(moving),
        "errors": errors,
        "label_disagreements": {"count": doubted, "rows": [row for _, _, row in listed]},
    }


def doubts(labels: np.ndarray, probabilities: np.ndarray, flagged: np.ndarray) -> np.ndarray:
    """Which labels the verdicts contradict, (N,) bool.

    Args:
        labels: the data's own, as places among the classes (N,).
        probabilities: of the classes, clean last (N, K).
        flagged: whether a rule fired (N,).
    """
    best = probabilities.argmax(1)
    acted = flagged | (best == probabilities.shape[1] - 1)
    found: np.ndarray = (best != labels) & (probabilities.max(1) >= SURE) & acted
    return found


def _doubted(table: Any, taxonomy: Taxonomy) -> list[tuple[float, int, dict[str, Any]]]:
    """(probability of its label, number, row) of every row of a part whose own label the verdict contradicts."""
    known = [label in taxonomy.labels for label in table["label"].to_pylist()]
    table = table.filter(table["risk"].is_valid().to_numpy() & np.array(known, dtype=bool))
    if not len(table):
        return []
    own = np.array([taxonomy.type_index(label) for label in table["label"].to_pylist()])
    found = np.stack([table[f"p_{label}"].to_numpy() for label in taxonomy.labels], 1)
    best, rows = found.argmax(1), []
    for at in np.flatnonzero(doubts(own, found, table["flagged"].to_numpy())).tolist():
        row = {name: table[name][at].as_py() for name in ("row", "source", "question", "label")}
        row |= {"verdict": taxonomy.labels[best[at]], "probability": round(float(found[at, best[at]]), 4)}
        rows.append((float(found[at, own[at]]), row["row"], row))
    return rows
