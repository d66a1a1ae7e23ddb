"""From words to an adapter, measured on pocket: words alone, and as start and teacher of stage I.

    python benchmarks/zero_shot.py alone            # AUROC of words alone, test split, both drawing styles
    python benchmarks/zero_shot.py labelled         # with 5, 20, 100 labelled pictures a type, and stage I from nothing
    python benchmarks/zero_shot.py ways             # validation split: which way to use CLIP's patch tokens

`alone` and `labelled` judge benign pictures and attacks with their questions; of "recall" the threshold is the one that
1 % of the benign pictures of the same style reach.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from script import command_line, keep, run
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from safety_modules.attach.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones.bases import load_whole
from safety_modules.cli.options import Cache, Json
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.words import WordsHead, grouped
from safety_modules.evaluation.results import versions
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.metrics import Estimate, rate
from safety_modules.paths import checkpoint_dir
from safety_modules.pocket import splits
from safety_modules.records.record import Record
from safety_modules.taxonomy import CLEAN
from safety_modules.training import Recipe, train_safety
from safety_modules.training.corpus import Corpus
from safety_modules.training.predictions import corpus_judgements
from safety_modules.training.words import attach_words, pseudo_labelled, taught

KINDS = ("benign", "attack")
RATE = 0.01
FROM_NOTHING = Recipe(
    stage=1,
    steps=300,
    batch_size=32,
    learning_rate=2e-3,
    warmup_steps=20,
    weight_decay=0.01,
    clean_share=0.5,
    no_question_rate=0.3,
    feature_noise=0.1,
    patch_dropout=0.5,
    label_smoothing=0.01,
    level_weight=0.5,
)
"""How stage I is trained on a few pictures; with a teacher on more, for as long."""
TRAINED_ON = FROM_NOTHING.changed(steps=60, learning_rate=5e-5, patch_dropout=0.0)
"""How the head of words itself is trained on."""
CONFIDENCE = 0.8
Base = Annotated[Path | None, typer.Option(help="Pocket's base with words/ in it; default: the shipped one.")]
Samples = Annotated[int, typer.Option(min=100, help="Records of each kind and style.")]


def worded(base: Path | None) -> SafetyAttachment:
    """A fresh base with a head of words."""
    folder = base or checkpoint_dir()
    model, processor = load_whole(folder)
    return attach_words(model.eval(), processor, folder / "words" / "types.yaml", folder / "words")


def fresh(base: Path | None) -> SafetyAttachment:
    """A fresh base with an untrained head of the default design."""
    model, processor = load_whole(base or checkpoint_dir())
    return attach_safety(model.eval(), processor, config=SafetyConfig(lora=None))


def judged(safety: SafetyAttachment, samples: int, split: str, cache: Path | None) -> dict[str, dict[str, Any]]:
    """By style: AUROC, and the recall where `RATE` of the benign pictures are flagged."""
    found: dict[str, dict[str, Any]] = {}
    for style in splits.STYLES:
        records = measured(style, samples, split)
        corpus = Corpus.make(safety.backbone, records, cache, False, safety.modules)
        types = corpus_judgements(safety, corpus).types
        risky = np.array([record.is_risky for record in records])
        risk = types[:, :-1].sum(1)
        flagged = risk > np.quantile(risk[~risky], 1 - RATE)
        found[style] = {"auroc": float(roc_auc_score(risky, risk)), "recall": rate(flagged[risky].tolist())._asdict()}
    return found


def measured(style: str, samples: int, split: str) -> list[Record]:
    """Benign pictures and attacks."""
    return [record for kind in KINDS for record in splits.make(kind, samples, split=split, style=style, seed=5)]


def few(count: int, seed: int) -> list[Record]:
    """So many labelled pictures of each type, and as many clean ones as of all types together; training split."""
    pool, found = splits.make("safety", 60 * count + 400, split="train", seed=100 + seed), list[Record]()
    types = sorted({record.type for record in pool} - {CLEAN})
    for name in (*types, CLEAN):
        some = [record for record in pool if record.type == name]
        found += some[: count * (len(types) if name == CLEAN else 1)]
    return found


def alone(base: Base = None, samples: Samples = 2000, json_file: Json = None, cache: Cache = None) -> None:
    """Words alone, on the test split."""
    results = {
        "suite": "words",
        "settings": {"split": "test", "samples": samples, "versions": versions()},
        "alone": judged(worded(base), samples, "test", cache),
    }
    print_rows({"words alone": results["alone"]}, samples)
    keep(results, json_file)


def labelled(
    base: Base = None,
    samples: Samples = 2000,
    counts: Annotated[list[int] | None, typer.Option("--count", help="Labelled pictures a type; repeat.")] = None,
    pictures: Annotated[int, typer.Option(help="Pictures without labels.")] = 3000,
    split: Annotated[str, typer.Option(help="test, or validation to choose on.")] = "test",
    seed: int = 0,
    json_file: Json = None,
    cache: Cache = None,
) -> None:
    """Stage I from nothing, the head of words trained on, and stage I with words as its teacher, on the same labels."""
    teacher = worded(base)
    rows = {"words alone": judged(teacher, samples, split, cache)}
    pool = splits.make("safety", pictures, split="train", seed=200 + seed)
    pseudo, _ = pseudo_labelled(teacher, pool, CONFIDENCE, cache_dir=cache, progress=False)
    right = np.mean([a.type == b.type for a, b in zip(pseudo, same(pool, pseudo), strict=True)])
    Console().print(f"sure of {len(pseudo)} of {len(pool)} pictures without labels, {right:.1%} of them rightly")
    for count in counts or (5, 20, 100):
        records = few(count, seed)
        ways: Mapping[str, tuple[Callable[[Path | None], SafetyAttachment], Sequence[Record], Recipe]] = {
            "stage I from nothing": (fresh, records, FROM_NOTHING),
            "words, trained on": (worded, records, TRAINED_ON),
            "stage I, taught by words": (fresh, taught(records, pseudo), FROM_NOTHING),
        }
        for name, (start, data, recipe) in ways.items():
            safety = start(base)
            train_safety(safety, data, recipe.changed(seed=seed), cache_dir=cache, progress=False)
            rows[f"{count} a type: {name}"] = judged(safety, samples, split, cache)
            print_rows(rows, samples)
    settings = {"split": split, "samples": samples, "pictures": pictures, "confidence": CONFIDENCE, "seed": seed}
    keep({"suite": "words", "settings": {**settings, "versions": versions()}, "labelled": rows}, json_file)


def same(pool: Sequence[Record], pseudo: Sequence[Record]) -> list[Record]:
    """Of the pseudo-labelled records those of the pool with their own labels."""
    by_picture = {id(record.image): record for record in pool}
    return [by_picture[id(record.image)] for record in pseudo]


@torch.no_grad()
def ways(base: Base = None, samples: Samples = 500, json_file: Json = None) -> None:
    """The known ways to use CLIP's patch tokens, on the validation split: AUROC of best patch and class token."""
    safety = worded(base)
    head = safety.modules.head
    assert isinstance(head, WordsHead)
    found: dict[str, dict[str, float]] = {}
    for style in splits.STYLES:
        records = measured(style, samples, "validation")
        vision = torch.cat(
            [
                safety.backbone.encode_with_class(
                    safety.backbone.pixel_values([record.load_image() for record in records[start : start + 64]])
                ).vision
                for start in range(0, len(records), 64)
            ]
        )
        risky = np.array([record.is_risky for record in records])
        whole, _ = head.cosines(vision)
        for name, patches in patch_ways(head, vision[:, 1:]).items():
            for local in (0.0, 0.3, 0.5, 0.7, 1.0):
                evidence = head.scale * ((1 - local) * whole + local * patches.amax(1))
                types = grouped(evidence, head.types, head.num_types + 1).softmax(-1)
                row = found.setdefault(f"{name}, local {local}", {})
                row[style] = float(roc_auc_score(risky, types[:, :-1].sum(1).numpy()))
    table = terminal_table("ways to use the patches, validation: AUROC", "way", *splits.STYLES)
    for name, row in found.items():
        table.add_row(name, *(f"{row[style]:.4f}" for style in splits.STYLES))
    Console().print(table)
    keep({"suite": "words", "ways": found, "settings": {"samples": samples, "versions": versions()}}, json_file)


def patch_ways(head: WordsHead, patches: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cosines (B, P, S) of patches that enter the last layer (B, P, Dv), each way."""
    sentences = functional.normalize(head.directions, dim=-1).T
    value = head.value(head.normed(patches))
    return {
        name: functional.normalize(head.project(head.normed(x)), dim=-1) @ sentences
        for name, x in (("as they are", patches), ("value path", value), ("value path + residual", patches + value))
    }


def print_rows(rows: Mapping[str, Mapping[str, Any]], samples: int) -> None:
    """AUROC and recall by style."""
    table = terminal_table(
        f"{samples} records of each kind and style",
        "",
        *(f"{what}, {style}" for what in ("AUROC", "recall at 1 %") for style in splits.STYLES),
    )
    for name, row in rows.items():
        aurocs = [f"{row[style]['auroc']:.4f}" for style in splits.STYLES]
        table.add_row(name, *aurocs, *(Estimate(**row[style]["recall"]).percent() for style in splits.STYLES))
    Console().print(table)


app = command_line(alone, labelled, ways)


if __name__ == "__main__":
    run(app)
