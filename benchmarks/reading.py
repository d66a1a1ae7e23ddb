"""How well heads read: stage I with each of them on the same records, measured on pocket's validation split.

    python benchmarks/reading.py --out DIR --query reading --query concept

`--blocks N` puts the states behind the language model's first N blocks in the place of the input embeddings, so that
the text side can be compared with one that borrows the base's.
"""

import copy
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from pocket_trainings import Out
from rich.console import Console
from rich.table import Table
from script import command_line, run
from sklearn.metrics import roc_auc_score
from torch import nn

from safety_modules import SafetyConfig, attach_safety, pocket
from safety_modules.adapter.parameters import WORDS
from safety_modules.attach import SafetyAttachment
from safety_modules.backbones import Backbone
from safety_modules.io.files import write_json
from safety_modules.paths import recipe_dir
from safety_modules.pocket import mix, splits
from safety_modules.pocket.rewording import before
from safety_modules.records.record import Record
from safety_modules.training import Recipe, calibrate, train_safety
from safety_modules.training.corpus import Corpus
from safety_modules.training.predictions import corpus_judgements

HARMFUL = (
    "harmful question", "diluted_before", "diluted_after", "400 words before", "later_turn", "announced",
    "role_markers", "typing_errors", "capitals", "other_words", "empty_question", "attack",
)  # fmt: skip
HARMLESS = (
    "harmless question",
    "forbidden_word",
    "benign",
    "reworded_benign",
    "free_benign",
    "garbled_benign",
    "empty_benign",
    "vqa",
)
CALIBRATED_ON = ("benign", "reworded_benign", "forbidden_word", "free_benign", "dual")


def measured(samples: int) -> dict[str, list[Record]]:
    """Validation records by row of the table."""

    def made(kind: str, count: int = samples) -> list[Record]:
        return splits.make(kind, count, split="validation", seed=1)

    twins, rng = made("dual", 2 * samples), np.random.default_rng(1)
    found = {
        "harmful question": [one for one in twins if one.is_risky],
        "harmless question": [one for one in twins if not one.is_risky],
    }
    found["400 words before"] = [
        one.model_copy(update={"question": before(one.question, "validation", rng, 400).question})
        for one in found["harmful question"]
    ]
    return found | {name: made(name) for name in (*HARMFUL, *HARMLESS) if name not in found}


def behind_blocks(backbone: Backbone, count: int) -> None:
    """Text is given as the hidden states behind the language model's first blocks."""
    embed, borrowed = backbone.embed_text, copy.copy(backbone.language_model)
    borrowed._modules = dict(borrowed._modules) | {"layers": backbone.blocks[:count], "norm": nn.Identity()}

    def states(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # causal: what pads stand behind does not see them
            return borrowed(inputs_embeds=embed(ids), use_cache=False).last_hidden_state

    backbone.embed_text = states  # type: ignore[method-assign]


def numbers(safety: SafetyAttachment, sets: dict[str, list[Record]], cache: Path) -> dict[str, float]:
    """Share flagged, in percent, of every set; and AUROC of pictures alone."""

    def highest(records: list[Record]) -> np.ndarray:
        scores = corpus_judgements(safety, Corpus.make(safety.backbone, records, cache, False, safety.modules)).scores
        return (scores - np.array([safety.thresholds[name] for name in safety.config.taxonomy.types])).max(1)

    found = {name: 100 * float((highest(records) >= 0).mean()) for name, records in sets.items()}
    alone = [one.model_copy(update={"question": "", "history": ()}) for one in sets["attack"] + sets["vqa"]]
    risky = [one.is_risky for one in alone]
    return found | {"AUROC of pictures alone": 100 * float(roc_auc_score(risky, highest(alone)))}


def compare(
    out: Out,
    query: Annotated[list[str], typer.Option(help="A head's name; repeat.")],
    records: Annotated[int, typer.Option(min=100, help="Training records.")] = 8000,
    steps: Annotated[int, typer.Option(min=1, help="Of stage I.")] = 2000,
    samples: Annotated[int, typer.Option(min=20, help="Of each row of the table.")] = 300,
    blocks: Annotated[int, typer.Option(min=0, help="Of the language model, that the text goes through first.")] = 0,
) -> None:
    """Train, calibrate and measure."""
    model, processor = pocket.load()
    training, sets = splits.make("safety", records, split="train"), measured(samples)
    benign = [
        one
        for kind in CALIBRATED_ON
        for one in splits.make(kind, samples, split="validation", seed=2)
        if not one.is_risky
    ]
    columns: dict[str, dict[str, float]] = {}
    for name in query:
        safety = attach_safety(model, processor, config=SafetyConfig(query=name))
        if blocks:
            behind_blocks(safety.backbone, blocks)
        began = time.perf_counter()
        recipe = Recipe.from_yaml(recipe_dir() / "stage1.yaml", steps=steps)
        train_safety(safety, training, recipe, cache_dir=out / "features", progress=False)
        taken = time.perf_counter() - began
        calibrate(safety, benign, mix.MAX_FALSE_ALARM, cache_dir=out / "features", progress=False)
        column = numbers(safety, sets, out / "features")
        parts = safety.modules.state_dict()
        size = sum(tensor.numel() for part, tensor in parts.items() if part.partition(".")[0] in WORDS)
        columns[name] = column | {"parameters, thousand": size / 1000, "training, s": taken}
        safety.save_pretrained(out / f"{name}-{blocks}")
        safety.detach()
        write_json(out / f"{name}-{blocks}.json", columns[name])
    _show(columns)


def _show(columns: dict[str, dict[str, Any]]) -> None:
    table = Table("flagged, %", *columns, header_style="bold")
    for row in next(iter(columns.values())):
        table.add_row(row, *(f"{column[row]:.1f}" for column in columns.values()), end_section=row == HARMFUL[-1])
    Console().print(table)


app = command_line(compare)

if __name__ == "__main__":
    run(app)
