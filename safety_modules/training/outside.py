"""What pictures of a training are like, so that others can be told from them: fitted to features that are at hand."""

import torch

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.defences.guard.outside import Outside, pool
from safety_modules.training.corpus import Corpus

FITTED, KEPT = 20_000, 2_000
"""Most pictures that mean and covariance come from, and most whose distances are kept."""
LEAST = 400
"""Pictures without which there is no p-value below 1 %: a quarter of them is kept."""
BATCH = 256


def fit_outside(attachment: SafetyAttachment, corpus: Corpus) -> int:
    """Fit the active guard's `outside` to the pictures of a corpus, in place of what it had.

    Returns:
        How many of them were used; 0 where there are fewer than `LEAST`: then it has none.
    """
    digests = sorted({digest for digest in corpus.digests if digest is not None})  # of bytes, so in random order
    kept = min(KEPT, len(digests) // 4)
    used = digests[: kept + FITTED] if len(digests) >= LEAST else []
    outside = None
    if used:
        batches = (corpus.store.batch(used[start : start + BATCH]) for start in range(0, len(used), BATCH))
        pooled = torch.cat([pool(attachment.modules.patches(batch)) for batch in batches])
        outside = Outside.fit(pooled[kept:], pooled[:kept])
    with attachment.backbone.lock:
        attachment.modules.know(outside)
    return len(used)
