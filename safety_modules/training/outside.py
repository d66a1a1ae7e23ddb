"""What the pictures of a training are like, so that others can be told from them: fitted to features at hand."""

from collections.abc import Iterable, Sequence

import torch

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.config import OutsideSettings
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
SHRINKAGE = 0.01
"""Of the covariance towards a sphere of the mean variance: what keeps it invertible with few pictures."""
WEIGHT = 4.0
"""How much the side of the made-up pictures counts beside the distance; chosen among 0.5, 1, 2, 4 on pocket."""
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
        found = pooled(attachment, seen(corpus, used))
        outside = fitted(found[kept:], found[:kept], pooled(attachment, _made_up(attachment)))
    with attachment.backbone.lock:
        attachment.modules.know(outside=outside)
    return len(used)


def fitted(pictures: torch.Tensor, kept: torch.Tensor, strange: torch.Tensor) -> Outside:
    """What tells others from the training's pictures, by pooled features.

    Args:
        pictures: of the training (m, Dv).
        kept: of others of the training (n, Dv), whose distances are kept.
        strange: of made-up ones (s, Dv).
    """
    from sklearn.linear_model import LogisticRegression  # a second to import

    pictures, mean = pictures.double(), pictures.double().mean(0)
    variances, axes = torch.linalg.eigh(torch.cov((pictures - mean).T))
    whiten = (axes * (variances.clamp(min=0) + SHRINKAGE * variances.mean() + 1e-12).rsqrt()).T
    at, away = ((part.double() - mean) @ whiten.T for part in (pictures, strange))  # (m, Dv), (s, Dv)
    at = at[: 10 * len(away)]  # enough of them
    labels = torch.cat([torch.zeros(len(at)), torch.ones(len(away))])
    told = LogisticRegression(C=0.06, max_iter=300).fit(torch.cat([at, away]).numpy(), labels.numpy())
    direction = torch.from_numpy(told.coef_[0])
    scale = at.square().sum(1).std().rsqrt()
    found = Outside(OutsideSettings(trained=len(kept)), pictures.shape[1])
    # In the precision that adapters are saved in, so that saving changes no distance but for rounding it.
    found.mean.copy_(mean.half())
    found.whiten.copy_((scale * whiten).half())
    found.direction.copy_((WEIGHT * direction / scale / (at @ direction).std()).half())
    found.trained.copy_(found.distance(kept).sort().values)
    return found


def seen(corpus: Corpus, digests: Sequence[str]) -> Iterable[torch.Tensor]:
    """What the head sees of these pictures, in batches (B, P, Dv)."""
    return (corpus.store.batch(digests[start : start + BATCH]) for start in range(0, len(digests), BATCH))


def _made_up(attachment: SafetyAttachment) -> Iterable[torch.Tensor]:
    """What the head would see of the made-up pictures, in batches (B, P, Dv)."""
    backbone, pictures = attachment.backbone, strangers(STRANGERS)
    for start in range(0, len(pictures), BATCH):
        pixels = [backbone.pixel_values([picture]) for picture in pictures[start : start + BATCH]]
        with attachment.inference():
            found = look(backbone, attachment.modules, backbone.joined(pixels)).vision
        yield found


def pooled(attachment: SafetyAttachment, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Mean features of length 1 (N, Dv), on the CPU, of what the head sees."""
    return torch.cat([pool(attachment.modules.patches(batch)).cpu() for batch in batches])
