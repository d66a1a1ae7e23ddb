"""How much each of a calibration's pictures is like those of another day: weights for a promise about these.

A promise holds for pictures drawn as its own were. Where others are drawn otherwise but look alike in part, it can be
made for them with weights, the likelihood ratio of the two (covariate shift: conformal prediction with weights, arXiv
1904.06019). The ratio is not known; a classifier of the two kinds of pictures gives it.
"""

import numpy as np

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.training.corpus import Corpus
from safety_modules.training.outside import pooled, seen

FOLDS = 2
"""Each picture's weight comes from a classifier that has not seen it."""
STRENGTH = 0.01
"""Inverse of the classifier's regularisation. On pocket a weaker one (0.001, or of fewer directions) left promises
broken; stronger ones leave nothing to promise."""
LEAST = 100
"""Pictures of another kind without which it is not known what they are like."""


def features(attachment: SafetyAttachment, corpus: Corpus) -> np.ndarray:
    """Mean features (n, Dv) of a corpus's different pictures, in the order of their digests."""
    digests = sorted({digest for digest in corpus.digests if digest is not None})
    return pooled(attachment, seen(corpus, digests)).double().numpy()


def likelihood_ratios(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much more often pictures like each of the first occur among the second: weights (n,), of mean 1.

    A logistic regression of one kind against the other, on features whitened by the first kind's; of each picture by a
    fit that left it out.

    Args:
        own: features (n, Dv).
        others: features (m, Dv).

    Does not cover: what these features do not show, such as what is asked; kinds of pictures that the first does not
    have at all, however many of the second they are.
    """
    from sklearn.linear_model import LogisticRegression  # a second to import

    mean = own.mean(0)
    _, scales, axes = np.linalg.svd(own - mean, full_matrices=False)
    whiten = axes.T / np.maximum(scales / np.sqrt(len(own)), 1e-9 + 1e-3 * scales[0] / np.sqrt(len(own)))
    rng, weights = np.random.default_rng(0), np.zeros(len(own))
    first, second = (own - mean) @ whiten, (others - mean) @ whiten
    folds, others_folds = (rng.permutation(len(part)) % FOLDS for part in (own, others))
    for fold in range(FOLDS):
        known, compared = first[folds != fold], second[others_folds != fold]
        labels = np.repeat([0, 1], [len(known), len(compared)])
        told = LogisticRegression(C=STRENGTH, max_iter=300, class_weight="balanced")
        odds = told.fit(np.concatenate([known, compared]), labels).decision_function(first[folds == fold])
        weights[folds == fold] = np.exp(odds - np.log(np.exp(odds - odds.max()).mean()) - odds.max())
    return weights
