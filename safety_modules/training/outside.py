"""What the pictures of a training are like, so that others can be told from them: fitted to features at hand."""

from collections.abc import Iterable

import torch

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.defences.guard.judge import look
from safety_modules.defences.guard.outside import Outside, pool
from safety_modules.training.corpus import Corpus
from safety_modules.training.strangers import strangers

FITTED, KEPT = 20_000, 2_000
"""Most pictures that are fitted to, and most whose distances are kept."""
LEAST = 400
"""Pictures without which there is no p-value below 1 %: a quarter of them is kept."""
STRANGERS = 100
"""Made-up pictures of each kind."""
BATCH = 32


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
        found = _pooled(attachment, batches)
        outside = Outside.fit(found[kept:], found[:kept], _pooled(attachment, _made_up(attachment)))
    with attachment.backbone.lock:
        attachment.modules.know(outside)
    return len(used)


def _made_up(attachment: SafetyAttachment) -> Iterable[torch.Tensor]:
    """What the head would see of the made-up pictures, in batches (B, P, Dv)."""
    backbone, pictures = attachment.backbone, strangers(STRANGERS)
    for start in range(0, len(pictures), BATCH):
        pixels = [backbone.pixel_values([picture]) for picture in pictures[start : start + BATCH]]
        with attachment.inference():
            seen = look(backbone, attachment.config, backbone.joined(pixels)).vision
        yield seen


def _pooled(attachment: SafetyAttachment, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """(N, Dv), on the CPU."""
    return torch.cat([pool(attachment.modules.patches(batch)).cpu() for batch in batches])
