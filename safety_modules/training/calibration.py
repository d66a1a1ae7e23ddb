"""Calibration of an adapter: its temperature, and thresholds that keep a promise."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.errors import DataError
from safety_modules.metrics import Estimate, rate
from safety_modules.policy.outside import Outsiders, outsiders, some
from safety_modules.policy.scores import HeadOutput, judgements, log_ratio
from safety_modules.records.record import GoodRecords, Record, good_records
from safety_modules.taxonomy import Taxonomy
from safety_modules.training.corpus import Corpus
from safety_modules.training.likeness import LEAST, features, likelihood_ratios
from safety_modules.training.predictions import corpus_output
from safety_modules.training.temperature_scaling import Scaling, fit_scaling
from safety_modules.training.thresholds import MINIMUM, any_flagged, effective_size, promised_limits


@dataclass(frozen=True)
class Calibration:
    """Thresholds, what they promise, and what they cost.

    Attributes:
        thresholds: per risk type, a log-odds; a rule fires where its score reaches thresholds[t].
        types: whose thresholds were set; the others have those they had.
        max_false_alarm: the promised rate, over all types together.
        confidence: probability, over draws of the calibration images, that the promise holds.
        images: different benign images used (n).
        asked: of the benign records those with a question. The promise is for images judged as these records were: with
            questions like theirs, or alone.
        records: all benign records; an image may have several, with a question each.
        questions: different questions among them.
        flagged: how many of the images any rule would flag, with any of their questions.
        per_type: whether each type of the first training has its own threshold.
        temperature: what the first types' logits are divided by.
        ece_before: expected calibration error without temperature; None = not fitted now.
        ece_after: with it (see `Scaling`); None = not fitted now.
        recall: per risk type the share of labelled records that any rule flags; None = no labelled ones of it.
        benign_digest: SHA-256 over the benign records.
        labelled_digest: over the labelled ones; None without.
        outside: what is known of the benign pictures beside those of the training and of the calibration before
            (`policy.outside.Outsiders`); None where the adapter has nothing fitted for it.
        like: pictures of another kind that the promise is about; None = it is about pictures like the benign ones.
        effective: how many benign pictures of equal weight say as much about these (`thresholds.effective_size`).
        views: random ones that every picture was judged by; 0 = it was judged by one look.
    """

    thresholds: dict[str, float]
    types: list[str]
    max_false_alarm: float
    confidence: float
    images: int
    asked: int
    records: int
    questions: int
    flagged: int
    per_type: bool
    temperature: float
    ece_before: float | None
    ece_after: float | None
    recall: dict[str, Estimate | None]
    benign_digest: str
    labelled_digest: str | None
    outside: dict[str, Any] | None = None
    like: int | None = None
    effective: float | None = None
    views: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; for an adapter's metadata."""
        recall = {name: None if found is None else found._asdict() for name, found in self.recall.items()}
        return {**asdict(self), "recall": recall}


def calibrate(
    attachment: SafetyAttachment,
    benign_records: Iterable[Record] | GoodRecords,
    max_false_alarm: float = 0.01,
    per_type: bool = False,
    confidence: float = 0.95,
    *,
    types: Sequence[str] | None = None,
    labelled: Iterable[Record] | GoodRecords | None = None,
    like: Iterable[Record] | GoodRecords | None = None,
    minimum: float = MINIMUM,
    cache_dir: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Calibration:
    """Set thresholds, and the temperature, so that few benign images are flagged; the attachment's policy stays.

    Guarantee (`promised_limits`): with probability `confidence` over the draw of the benign images, at most
    `max_false_alarm` of all images of their kind are flagged, by all types together. The score of an image is that of
    `scores.rule_scores`, or, for the one threshold common to the types of the first training, the largest of them; of
    several questions about one image the largest counts, since only different images are independent draws.

    An added type has a threshold of its own. Where the others keep theirs, what these flag of the benign images is paid
    out of the promised rate first, exactly; where all are set, rate and doubt are shared out in equal parts over the
    first types' threshold and each added one (Bonferroni).

    With `like`, the promise is about pictures of another kind than the benign ones, of which no label is known: each
    benign picture counts as much as pictures like it are more frequent there (`likeness`). It is then approximate, and
    refused where too few are like them.

    Args:
        attachment: its modules judge; its `temperature` and `thresholds` are replaced.
        benign_records: clean records with an image, drawn like the images the guard will see; with their
            questions, which may matter.
        max_false_alarm: promised rate, in (0, 1).
        per_type: a threshold for each type of the first training instead of a common one.
        confidence: of the promise, in (0, 1).
        types: whose thresholds to set; the others keep theirs, bit for bit, and the temperature stays unless all types
            of the first training are among them. Default: the added types where there are any and the others are
            calibrated; else all.
        labelled: clean and risky records with an image, none of them among the benign ones: the temperature is fitted
            on them, before the thresholds, and the recall that is left is measured. None = the temperature stays.
        like: pictures of the kind that the promise is to be about, mostly benign; of their labels nothing is taken.
            None = the benign records' own.
        minimum: no threshold lies below this. Any value keeps the promise.
        cache_dir: keeps vision features between runs; None = in memory only.
        progress: show bars.

    Raises:
        DataError: too few images for the promise (the message says how many are needed); benign records that are risky
            or without an image; benign images that no threshold lets pass; a picture among both the benign and the
            labelled ones, whose thresholds would then rest on a temperature it helped to choose; an unknown type, or
            one that should keep a threshold it does not have. Nothing was set.

    Does not cover: images of another kind than the benign ones given (drawing styles, cameras, languages), rules
    whose policy sets its own threshold, and how many risky images of another kind than the labelled ones are missed.
    """
    taxonomy = attachment.config.taxonomy
    chosen = _chosen(attachment, types)
    groups = _groups(attachment, chosen, per_type)
    benign = good_records(benign_records, taxonomy)
    unfit = [index for index, record in enumerate(benign.records) if record.is_risky or record.image is None]
    if unfit:
        raise DataError(
            f"not calibrated: expected clean records with an image, got others at {unfit[:10]}. Leave them out."
        )
    nothing = np.zeros((len(benign.records), len(taxonomy.types)))
    promised_limits(nothing, max_false_alarm, confidence, groups)  # too few: refused before any work
    corpus = Corpus.make(attachment.backbone, benign, cache_dir, progress, attachment.modules)
    others = None
    if labelled is not None:
        others = Corpus.make(
            attachment.backbone, good_records(labelled, taxonomy), cache_dir, progress, attachment.modules
        )
        _check_apart(corpus, others)
    weights, today = None, None
    if like is not None:
        today = Corpus.make(
            attachment.backbone, good_records(like, taxonomy).with_images(), cache_dir, progress, attachment.modules
        )
        weights = _weights(attachment, corpus, today)

    temperature, before, after = attachment.temperature, None, None
    said = None if others is None else corpus_output(attachment, others)
    if others is not None and said is not None and set(attachment.config.first_types) <= set(chosen):
        temperature, before, after = _fitted(attachment, others, *said)
    output, owners = corpus_output(attachment, corpus)
    pictures = by_picture(judgements(output, temperature).scores, [corpus.digests[owner] for owner in owners])
    kept = np.array([attachment.thresholds.get(name, np.nan) for name in taxonomy.types])
    kept[[taxonomy.types.index(name) for name in chosen]] = np.nan
    already = any_flagged(pictures, kept)  # nothing reaches NaN
    limits = promised_limits(pictures, max_false_alarm, confidence, groups, minimum, already, weights)
    limits = np.where(np.isnan(kept), limits, kept)
    recall: dict[str, Estimate | None] = dict.fromkeys(taxonomy.types)
    if others is not None and said is not None:
        recall = _recall(others, taxonomy, judgements(said[0], temperature).scores, said[1], limits)
    asked = [record.question for record in corpus.records if record.question.strip()]
    whose = corpus if today is None else today
    shown, of = (output, owners) if today is None else corpus_output(attachment, today)
    thresholds = dict(zip(taxonomy.types, limits.tolist(), strict=True))
    outside = None if shown.outside is None else _outsiders(attachment, shown, temperature, whose, of)
    attachment.temperature, attachment.thresholds = temperature, thresholds
    return Calibration(
        thresholds=attachment.thresholds,
        types=chosen,
        max_false_alarm=max_false_alarm,
        confidence=confidence,
        images=len(pictures),
        asked=len(asked),
        records=len(corpus.records),
        questions=len(set(asked)),
        flagged=int(any_flagged(pictures, limits).sum()),
        per_type=per_type,
        temperature=temperature,
        ece_before=before,
        ece_after=after,
        recall=recall,
        benign_digest=corpus_digest(corpus),
        labelled_digest=None if others is None else corpus_digest(others),
        outside=None if outside is None else outside._asdict(),
        like=None if today is None else len({*today.digests}),
        effective=None if weights is None else effective_size(weights),
        views=attachment.modules.looks - 1,
    )


def _weights(attachment: SafetyAttachment, corpus: Corpus, today: Corpus) -> np.ndarray:
    """Of each different picture of the calibration, in the order of `by_picture`."""
    own, others = features(attachment, corpus), features(attachment, today)
    if len(others) < LEAST:
        raise DataError(
            f"not calibrated: expected at least {LEAST} different pictures of the kind that the promise is to be "
            f"about, got {len(others)}. Add some."
        )
    return likelihood_ratios(own, others)


def _outsiders(
    attachment: SafetyAttachment, output: HeadOutput, temperature: float, corpus: Corpus, owners: np.ndarray
) -> Outsiders | None:
    """What is known of the calibration's pictures; p-values and risks are kept, to compare those of later days."""
    known, digests = attachment.modules.outside, [corpus.digests[owner] for owner in owners]
    found, as_before = judgements(output, temperature), judgements(output, attachment.temperature)
    assert known is not None and found.outside is not None
    p_values, risks, old = by_picture(np.stack([found.outside, found.risks, as_before.risks], 1), digests).T
    kept = known.with_calibration(*(torch.from_numpy(some(part)) for part in (p_values, log_ratio(risks))))
    with attachment.backbone.lock:
        attachment.modules.know(outside=kept)
    before = known.calibration(attachment.thresholds)
    return outsiders(p_values, attachment.policy.outside_significance, old, before)


def _chosen(attachment: SafetyAttachment, types: Sequence[str] | None) -> list[str]:
    """Whose thresholds are set, in the taxonomy's order."""
    config, has = attachment.config, attachment.thresholds
    known = config.taxonomy.types
    if types is None:
        calibrated = all(name in has for name in config.first_types)
        types = config.added if config.added and calibrated else known
    unknown = [name for name in types if name not in known]
    if unknown or not types:
        raise DataError(
            f"not calibrated: expected types among {', '.join(known)}, got {', '.join(unknown) or 'none'}. "
            "Check the spelling."
        )
    missing = [name for name in known if name not in types and name not in has]
    if missing:
        raise DataError(
            f"not calibrated: expected a threshold for every type that keeps its own, got none for "
            f"{', '.join(missing)}. Set those of all types."
        )
    return [name for name in known if name in types]


def _groups(attachment: SafetyAttachment, chosen: Sequence[str], per_type: bool) -> list[list[int]]:
    """Types that get one threshold together: those of the first training, unless each is to have its own."""
    names, added = attachment.config.taxonomy.types, attachment.config.added
    first = [names.index(name) for name in chosen if name not in added]
    own = [[names.index(name)] for name in chosen if name in added]
    together = [[place] for place in first] if per_type else [first] if first else []
    return [*together, *own]


def _fitted(attachment: SafetyAttachment, corpus: Corpus, output: HeadOutput, owners: np.ndarray) -> Scaling:
    """The temperature, on the records of the first types and clean: branches have none."""
    config = attachment.config
    own = [place for place, name in enumerate(config.taxonomy.labels) if name not in config.added]
    labels = np.array([config.taxonomy.type_index(record.type) for record in corpus.records])
    rows = np.isin(labels, own)
    whole = np.unique(owners, return_index=True)[1]
    logits = output.type_logits.numpy()[whole][rows][:, own]
    halves = np.array([int(str(digest)[:8], 16) % 2 for digest in corpus.digests])
    return fit_scaling(logits, np.searchsorted(own, labels[rows]), halves[rows])


def by_picture(scores: np.ndarray, digests: Sequence[str | None]) -> np.ndarray:
    """The largest score of each picture over the questions about it: (N, types) -> (different pictures, types)."""
    names = np.array([str(digest) for digest in digests])
    _, places = np.unique(names, return_inverse=True)
    found = np.full((int(places.max()) + 1, scores.shape[1]), -np.inf)
    np.maximum.at(found, places, scores)
    return found


def corpus_digest(corpus: Corpus) -> str:
    """SHA-256 over pictures, questions and labels, in order."""
    digest = hashlib.sha256()
    for picture, record in zip(corpus.digests, corpus.records, strict=True):
        digest.update(json.dumps([picture, record.question, record.type, record.level, *record.history]).encode())
    return digest.hexdigest()


def _recall(
    corpus: Corpus, taxonomy: Taxonomy, scores: np.ndarray, owners: np.ndarray, limits: np.ndarray
) -> dict[str, Estimate | None]:
    """Of each type, from the scores of every reading and which record each is of."""
    flagged = np.zeros(len(corpus.records), bool)
    np.logical_or.at(flagged, owners, any_flagged(scores, limits))
    found: dict[str, Estimate | None] = {}
    for name in taxonomy.types:
        hits = [bool(hit) for hit, record in zip(flagged, corpus.records, strict=True) if record.type == name]
        found[name] = rate(hits) if hits else None
    return found


def _check_apart(benign: Corpus, labelled: Corpus) -> None:
    known = set(benign.digests)
    both = [index for index, digest in enumerate(labelled.digests) if digest in known]
    if both:
        raise DataError(
            f"not calibrated: expected labelled pictures that are not among the benign ones, got {len(both)} that are, "
            f"such as record {both[0]}. The promise needs benign pictures that chose nothing: leave them out of one."
        )
