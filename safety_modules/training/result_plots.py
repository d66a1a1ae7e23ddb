"""A stage's result as one picture: losses, confusion matrix over the types, reliability of p(risk)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safety_modules.io.files import write_whole
from safety_modules.metrics import reliability
from safety_modules.records.record import Record
from safety_modules.taxonomy import Taxonomy


def write_plots(
    path: Path,
    log: Sequence[dict[str, Any]],
    taxonomy: Taxonomy,
    types: np.ndarray | None = None,
    records: Sequence[Record] = (),
) -> None:
    """Draw a stage as PNG: the trainer's log and, where there are any, probabilities of the types (N, types + 1) on N
    validation records.
    """
    from matplotlib.figure import Figure  # draws without a screen; most of a second to import

    figure = Figure(figsize=(5 if types is None else 15, 4.2), layout="constrained")
    panels = figure.subplots(1, 1 if types is None else 3, squeeze=False)[0]
    _losses(panels[0], log)
    if types is not None:
        truth = np.array([taxonomy.type_index(record.type) for record in records])
        _confusion(panels[1], truth, types.argmax(1), taxonomy.labels)
        _reliability(panels[2], 1 - types[:, taxonomy.clean_index], truth != taxonomy.clean_index)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes): row = labelled, column = most probable; both (N,) class indices."""
    return np.bincount(truth * classes + found, minlength=classes * classes).reshape(classes, classes)


def _losses(axes: Any, log: Sequence[dict[str, Any]]) -> None:
    for name in ("loss", "type_loss", "level_loss", "lm_loss"):
        points = [(entry["step"], entry[name]) for entry in log if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    lines = [*axes.lines]
    measured = [(entry["step"], entry["eval_auroc"]) for entry in log if "eval_auroc" in entry]
    if measured:
        right = axes.twinx()
        lines += right.plot(*zip(*measured, strict=True), "k.--", label="validation AUROC")
        right.set(ylabel="AUROC", ylim=(min(0.5, *(value for _, value in measured)), 1.01))
    axes.set(title="Loss and validation" if measured else "Loss", xlabel="step", ylabel="loss", ylim=(0, None))
    if lines:  # a stage shorter than log_every has none; below the curves, which would run through it
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
        axes.legend(handles=lines, ncols=2, frameon=False, fontsize=9, **below)


def _confusion(axes: Any, truth: np.ndarray, found: np.ndarray, labels: Sequence[str]) -> None:
    counts = confusion(truth, found, len(labels))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set(title="Confusion on validation", xlabel="judged", ylabel="labelled")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)


def _reliability(axes: Any, risk: np.ndarray, risky: np.ndarray) -> None:
    said, seen, count = reliability(risk, risky)
    error = float((np.abs(said - seen) * count).sum() / count.sum())
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.plot(said, seen, "o-")
    for x, y, number in zip(said, seen, count, strict=True):
        axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(4, -9), fontsize=8)
    axes.set(title=f"Reliability on validation, ECE {error:.3f}", xlabel="p(risk), beside each point its records")
    axes.set(ylabel="share that is risky", xlim=(-0.03, 1.08), ylim=(-0.05, 1.05))
