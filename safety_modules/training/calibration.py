"""Verdict probabilities from cached features, and thresholds with a promised false-alarm rate."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
from scipy.stats import binom

from safety_modules.attachment import SafetyAttachment
from safety_modules.errors import DataError
from safety_modules.scores import rule_scores
from safety_modules.taxonomy import Taxonomy
from safety_modules.training.corpus import Corpus
from safety_modules.training.questions import QuestionEmbeddings
from safety_modules.training.records import Record, check_records


@dataclass(frozen=True)
class Calibration:
    """Thresholds and what they promise.

    Attributes:
        thresholds: per risk type; a rule fires where its score reaches thresholds[t].
        max_false_alarm: the promised rate, over all types together.
        confidence: probability, over draws of the calibration images, that the promise holds.
        images: benign images used (n).
        flagged: how many of them any rule would flag.
        per_type: whether each type has its own threshold.
    """

    thresholds: dict[str, float]
    max_false_alarm: float
    confidence: float
    images: int
    flagged: int
    per_type: bool


def calibrate(
    attachment: SafetyAttachment,
    benign_records: Iterable[Record],
    max_false_alarm: float = 0.01,
    per_type: bool = False,
    confidence: float = 0.95,
    *,
    minimum: float = 0.05,
    cache_dir: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Calibration:
    """Set the attachment's thresholds so that few benign images are flagged; its policy stays as it is.

    Guarantee (finite sample, no assumption on the scores): with probability `confidence` over the draw of the
    benign images, at most `max_false_alarm` of *all* images of the same kind are flagged. It is the exact binomial
    (Clopper-Pearson) bound on an order statistic, that is, training-conditional split conformal prediction (Vovk
    2012): the threshold lies above the (k+1)-th largest score, k the largest number with
    Binomial(n, max_false_alarm).cdf(k) <= 1 - confidence. The score of an image is that of `scores.rule_scores`, or,
    for the one threshold common to all types, the largest of them, p(risk). With `per_type`, rate and doubt are
    divided by the number of types (Bonferroni).

    Args:
        attachment: its modules judge; its `thresholds` are replaced.
        benign_records: clean records with an image, drawn like the images the guard will see; with their
            questions, which may matter.
        max_false_alarm: promised rate, in (0, 1).
        per_type: a threshold for each type instead of a common one.
        confidence: of the promise, in (0, 1).
        minimum: no threshold lies below this; a head that separates the data well would otherwise fire at next to
            nothing. Any value keeps the promise.
        cache_dir: keeps vision features between runs; None = in memory only.
        progress: show bars.

    Raises:
        DataError: too few images for the promise (the message says how many are needed); records that are risky
            or without an image; a benign image with probability 1, above which no threshold can lie.

    Does not cover: images of another kind than the benign ones given (drawing styles, cameras, languages), rules
    whose policy sets its own threshold, and how many risky images are missed.
    """
    for name, value in (("max_false_alarm", max_false_alarm), ("confidence", confidence)):
        if not 0 < value < 1:
            raise DataError(f"not calibrated: expected {name} between 0 and 1, got {value}. Choose another.")
    taxonomy = attachment.config.taxonomy
    records = check_records(benign_records, taxonomy)
    unfit = [index for index, record in enumerate(records) if record.is_risky or record.image is None]
    if unfit:
        raise DataError(
            f"not calibrated: expected clean records with an image, got others at {unfit[:10]}. Leave them out."
        )
    parts = len(taxonomy.types) if per_type else 1
    rate, doubt = max_false_alarm / parts, (1 - confidence) / parts
    allowed = _allowed(len(records), rate, doubt)
    corpus = Corpus.make(attachment.backbone, records, cache_dir, progress)
    risks = rule_scores(corpus_probabilities(attachment, corpus)[0][:, : taxonomy.clean_index])  # (n, types)
    scores = risks if per_type else risks.max(1, keepdims=True)
    limits = [max(_above(column, allowed), minimum) for column in scores.T]
    limits = limits if per_type else limits * len(taxonomy.types)
    attachment.thresholds = dict(zip(taxonomy.types, limits, strict=True))
    flagged = int((risks >= np.asarray(limits)).any(1).sum())
    return Calibration(dict(attachment.thresholds), max_false_alarm, confidence, len(records), flagged, per_type)


def verdict_probabilities(
    attachment: SafetyAttachment,
    records: Iterable[Record],
    cache_dir: str | PathLike[str] | None = None,
    *,
    questions: bool = True,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """What the head says about many records; no language model, and the tower once for each distinct picture.

    Args:
        attachment: its modules judge.
        records: each with an image.
        cache_dir: keeps vision features between runs; None = in memory only.
        questions: False = judge the images alone.
        progress: show bars.

    Returns:
        Probabilities of the types (N, types + 1), clean last, and of the levels (N, levels); float32.

    Raises:
        DataError: a record without an image, or one that does not fit the taxonomy.
    """
    checked = check_records(records, attachment.config.taxonomy)
    corpus = Corpus.make(attachment.backbone, checked, cache_dir, progress)
    return corpus_probabilities(attachment, corpus, questions)


def corpus_probabilities(
    attachment: SafetyAttachment, corpus: Corpus, questions: bool = True, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """As `verdict_probabilities`, on features at hand."""
    without = [index for index, digest in enumerate(corpus.digests) if digest is None]
    if without:
        raise DataError(f"nothing to judge: expected an image in every record, got none at {without[:10]}.")
    embed = QuestionEmbeddings(attachment.backbone, attachment.config)
    types, levels = [], []
    for start in range(0, len(corpus.records), batch_size):
        part = range(start, min(start + batch_size, len(corpus.records)))
        with attachment.inference():
            asked = embed([corpus.records[i].question for i in part]) if questions else (None, None)
            output = attachment.modules(corpus.vision(part), *asked)
            types.append(output.type_logits.float().softmax(-1).cpu().numpy())
            levels.append(output.level_logits.float().softmax(-1).cpu().numpy())
    return np.concatenate(types), np.concatenate(levels)


def verdict_metrics(
    types: np.ndarray, levels: np.ndarray, records: Sequence[Record], taxonomy: Taxonomy
) -> dict[str, float]:
    """Quality of a head's probabilities on labelled records.

    Args:
        types: (N, types + 1).
        levels: (N, levels).
        records: N of them.
        taxonomy: names of both.

    Returns:
        `auroc` of 1 - p(clean) (where both clean and risky records are there), `type_accuracy` and
        `level_accuracy` on the risky ones (their most probable risk type and risky level; where there are any).
    """
    from sklearn.metrics import roc_auc_score  # a second to import

    risky = np.array([record.is_risky for record in records])
    found: dict[str, float] = {}
    if risky.any() and not risky.all():
        found["auroc"] = float(roc_auc_score(risky, 1 - types[:, taxonomy.clean_index]))
    if risky.any():
        true_types = np.array([taxonomy.type_index(record.type) for record in records])[risky]
        true_levels = np.array([taxonomy.level_index(record.level) for record in records])[risky]
        found["type_accuracy"] = float((types[risky, : taxonomy.clean_index].argmax(1) == true_types).mean())
        found["level_accuracy"] = float((levels[risky, 1:].argmax(1) + 1 == true_levels).mean())
    return found


def images_needed(max_false_alarm: float, confidence: float = 0.95) -> int:
    """Fewest benign images for the promise of one threshold: (1 - max_false_alarm)^n <= 1 - confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_false_alarm))


def _allowed(images: int, rate: float, doubt: float) -> int:
    """How many of the calibration images may lie above the threshold (k)."""
    needed = images_needed(rate, 1 - doubt)
    if images < needed:
        raise DataError(
            f"not calibrated: expected at least {needed} benign images for this promise, got {images}. "
            "Add images, or allow more false alarms."
        )
    allowed = int(binom.ppf(doubt, images, rate))
    # ppf gives the least k whose cdf reaches doubt; it counts only where the cdf is no more than doubt.
    return allowed if binom.cdf(allowed, images, rate) <= doubt else max(allowed - 1, 0)


def _above(scores: np.ndarray, allowed: int) -> float:
    """The least number above all but the `allowed` largest scores."""
    edge = np.sort(scores)[len(scores) - 1 - allowed]
    limit = float(np.nextafter(edge, 2))
    if limit > 1:
        raise DataError(
            "not calibrated: expected benign images with a risk below 1, got more at 1 than the promise allows. "
            "Train the head longer or with more benign images like these."
        )
    return limit
