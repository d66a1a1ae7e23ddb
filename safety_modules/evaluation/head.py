"""How good a head is on pocket's validation split, at one false-alarm rate for all: what heads are compared by.

Two heads' thresholds are never equally strict, so shares at their own thresholds do not compare. Here each is held to
the same share of benign pictures flagged, on enough records that two trainings can be told apart.
"""

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from safety_modules.evaluation.results import versions
from safety_modules.metrics import rate
from safety_modules.pocket import splits
from safety_modules.records.record import Record
from safety_modules.training.corpus import Corpus
from safety_modules.training.predictions import corpus_judgements, verdict_metrics

if TYPE_CHECKING:
    from safety_modules.attach.attach import SafetyAttachment

RATES = (0.01, 0.005)
KINDS = ("benign", "attack", "vqa")
SAMPLES, SEED = 5000, 5


def evaluate_head(
    attachment: "SafetyAttachment",
    samples: int = SAMPLES,
    seed: int = SEED,
    cache_dir: str | PathLike[str] | None = None,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Judge benign pictures, attacks and visual questions in both drawing styles. Thresholds play no part.

    Args:
        attachment: safety on a pocket model.
        samples: records of each kind in each style.
        seed: of the records; the thresholds of adapters are set on those of seed 0.
        cache_dir: keeps vision features between runs; None = in memory only.
        progress: show bars.

    Returns:
        Plain JSON types. `auroc` and `type_accuracy` (given risk) by style, and for each of `RATES`, the share of all
        benign pictures flagged, by style: `missed` attacks, and `vqa_flagged` and `benign_flagged`.
    """
    taxonomy, found = attachment.config.taxonomy, {}
    risks: dict[tuple[str, str], np.ndarray] = {}
    verdicts: dict[str, dict[str, float]] = {"auroc": {}, "type_accuracy": {}}
    for style in splits.STYLES:
        records: dict[str, list[Record]] = {
            kind: splits.make(kind, samples, split="validation", style=style, seed=seed) for kind in KINDS
        }
        together = [record for part in records.values() for record in part]
        corpus = Corpus.make(attachment.backbone, together, cache_dir, progress)
        types, levels = corpus_judgements(attachment, corpus)[:2]
        places = np.repeat(KINDS, [len(records[kind]) for kind in KINDS])
        judged = np.flatnonzero(places != "vqa")
        metrics = verdict_metrics(types[judged], levels[judged], [together[i] for i in judged], taxonomy)
        for name, values in verdicts.items():
            values[style] = metrics[name]
        for kind in KINDS:
            risks[style, kind] = 1 - types[places == kind, taxonomy.clean_index].astype(float)
    for share in RATES:
        limit = np.quantile(np.concatenate([risks[style, "benign"] for style in splits.STYLES]), 1 - share)
        found[str(share)] = {
            name: {style: rate(((risks[style, kind] > limit) != missed).tolist())._asdict() for style in splits.STYLES}
            for name, kind, missed in (
                ("missed", "attack", True),
                ("vqa_flagged", "vqa", False),
                ("benign_flagged", "benign", False),
            )
        }
    return {
        "suite": "head",
        "settings": {"split": "validation", "samples": samples, "seed": seed, "versions": versions()},
        **verdicts,
        "rates": found,
    }
