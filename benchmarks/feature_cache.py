"""What the feature cache saves: a step of stage I on cached features, on features computed anew, and in the reference's
form, a full forward pass of the model with the language-model loss (arXiv 2405.13581).

    python benchmarks/feature_cache.py --quick          # llava-pocket, below a minute
    python benchmarks/feature_cache.py --json out.json  # more rounds
    python benchmarks/feature_cache.py --model FOLDER   # another LLaVA, on records of pocket's pictures

All three train the same modules on the same batches with the same optimizer, in turns; the cache is built once before,
and its cost is printed in steps that it saves.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import environment, measure, ratio

from safety_modules import attach_safety, pocket
from safety_modules.defences.guard import Sample, Steer, build_inputs, lm_forward
from safety_modules.pocket import mix
from safety_modules.training.corpus import Collator, Corpus
from safety_modules.training.losses import language_model_loss
from safety_modules.training.objective import SafetyObjective
from safety_modules.training.recipe import Recipe
from safety_modules.training.sampling import training_order

CASES = ("cached", "recomputed", "reference")


class Steps:
    """One optimizer step of each kind, on batches drawn as in training."""

    def __init__(self, safety: Any, records: list[Any], recipe: Recipe, cache_dir: Path) -> None:
        self.safety, self.records = safety, records
        began = time.perf_counter()
        self.corpus = Corpus.make(safety.backbone, records, cache_dir, progress=False)
        self.built = time.perf_counter() - began
        self.collate = Collator(safety, self.corpus, recipe)
        self.task = SafetyObjective(safety, recipe).train()
        self.optimizer = torch.optim.AdamW(self.task.parameter_groups(), fused=True)
        self.draws = training_order(records, recipe)
        self.size, self.at = recipe.batch_size, 0

    def batch(self) -> tuple[list[Any], dict[str, Any]]:
        self.at = (self.at + self.size) % (len(self.draws) - self.size + 1)
        draws = self.draws[self.at : self.at + self.size]
        return draws, self.collate(draws)

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        self.optimizer.step()
        self.safety.modules.zero_grad()

    def cached(self) -> None:
        _, batch = self.batch()
        self.step(self.task(**batch)["loss"])

    def recomputed(self) -> None:
        draws, batch = self.batch()
        batch["vision"] = self.tower(draws).vision
        self.step(self.task(**batch)["loss"])

    def reference(self) -> None:
        """Tower, head, and the language model on image, question and answer, with the gradient through all of it."""
        draws, batch = self.batch()
        images, backbone = self.tower(draws), self.safety.backbone
        batch["vision"] = images.vision
        samples = []
        for draw, feature in zip(draws, images.projected, strict=True):
            record = self.records[draw.record]
            answer = record.answer or "I'm sorry, I can't help with that."
            samples.append(Sample(backbone.prompt_ids(record.question), [feature], Steer((True,)), answer))
        inputs = build_inputs(backbone, self.safety.modules.lm_tokens(), samples)
        logits = lm_forward(backbone, inputs._replace(labels=None), use_cache=False).logits
        self.step(self.task(**batch)["loss"] + language_model_loss(logits, inputs.labels))

    @torch.no_grad()
    def tower(self, draws: list[Any]) -> Any:
        backbone = self.safety.backbone
        pictures = [self.records[draw.record].load_image() for draw in draws]
        return backbone.encode_images(backbone.pixel_values(pictures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a LLaVA; default: llava-pocket")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()

    if options.model is None:
        model, processor = pocket.load()
    else:
        from safety_modules.cli.options import load_base

        model, processor = load_base(Path(options.model))
    safety = attach_safety(model, processor)
    recipe = Recipe(stage=1, steps=16, batch_size=8, learning_rate=1e-4, clean_share=0.5)
    records = [record for record in mix.training_records(128 if options.quick else 512) if record.image is not None]
    with tempfile.TemporaryDirectory() as folder, safety.base_frozen():
        steps = Steps(safety, records, recipe, Path(folder))
        cases = {name: getattr(steps, name) for name in CASES}
        times = measure(cases, rounds=5 if options.quick else 30)
    found: dict[str, Any] = {
        "environment": environment(str(safety.backbone.device)),
        "batch_size": recipe.batch_size,
        "seconds": {name: sorted(values)[len(values) // 2] for name, values in times.items()},
        "cache": {"pictures": len(steps.corpus.store), "seconds": steps.built},
    }
    for name in CASES[1:]:
        found[f"{name} / cached"] = ratio(times, name, "cached")._asdict()
        print(f"{name:>10} / cached: {ratio(times, name, 'cached')}")
    saved = found["seconds"]["recomputed"] - found["seconds"]["cached"]
    pictures, paid = len(steps.corpus.store), steps.built / saved
    print(f"{pictures} pictures cached in {steps.built:.1f} s: what {paid:.0f} steps of {recipe.batch_size} save")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
