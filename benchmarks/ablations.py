"""The design with and without each of its parts, trained with several seeds, measured on pocket's validation split.

    python benchmarks/ablations.py --out S --effort 0.5 --seeds 3
    python benchmarks/ablations.py --out S --seeds 1 --only no-lora

Choices are made here; the test split is for the evaluation command. `gated` is the default design, and the very
folder that `comparison.py train` makes, if both are given the same one.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from pocket_trainings import Budget, Calibration, Effort, Only, Out, Records, Trainings, budget_of, check_names
from rich.console import Console
from script import command_line, run, spread
from validation_numbers import SAMPLES, Sets, cases_of, measure

from safety_modules.cli.interruption import goes_on
from safety_modules.config import SafetyConfig
from safety_modules.evaluation.outcomes import BASE
from safety_modules.evaluation.systems import System, make_system
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.io.files import write_json
from safety_modules.pocket import splits
from safety_modules.records.record import Record
from safety_modules.training.recipe import Recipe

COLUMNS = {
    "asr": "attacks succeed",
    "asr_typographic": "..., text in picture",
    "refused": "attacks refused",
    "cautioned": "... cautioned, with the content",
    "answered": "... answered",
    "severe_content": "content gets through, high and medium risk",
    "wording": "wording right",
    "over_refusal": "over-refusal",
    "vqa": "VQA",
    "pairs": "both questions right",
    "auroc": "AUROC",
}


def _always(model: Any, processor: Any, folder: Path) -> System:
    return make_system(f"always={folder}", model, processor)


def _gated(model: Any, processor: Any, folder: Path) -> System:
    return make_system(f"gated={folder}", model, processor)


def _unhinted(model: Any, processor: Any, folder: Path) -> System:
    """Judged and gated as ever, but the language model is not told what was found."""
    system = _gated(model, processor, folder)
    assert system.attachment is not None
    system.attachment.guard.hints = False
    return system


@dataclass(frozen=True)
class Variant:
    """One way to build, train or use the design.

    Attributes:
        what: how it differs from the default, for the table.
        design: values of SafetyConfig that differ.
        recipe: values of the stage II recipe that differ.
        clean: share of the clean training pictures that is there; the recipes then draw as many fewer.
        weights: the variant whose weights these are; None = its own.
        open: makes the system of model, processor and folder.
    """

    what: str
    design: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    clean: float = 1.0
    weights: str | None = None
    open: Callable[[Any, Any, Path], System] = _gated


VARIANTS: dict[str, Variant] = {
    "gated": Variant("the default design"),
    "always": Variant("tokens and LoRA on every picture", weights="gated", open=_always),
    "no-tokens": Variant("no tokens in the language model (s2)", design={"num_lm_tokens": 0}),
    "no-lora": Variant("no LoRA", design={"lora": None}),
    "one-set": Variant("one set of projector, head tokens and head", design={"ensemble": 1}),
    "no-hint": Variant("no hint, in training or answering", recipe={"hint_rate": 0.0}, open=_unhinted),
    "lora-alone": Variant("no hint, no tokens", design={"num_lm_tokens": 0}, recipe={"hint_rate": 0.0}, open=_unhinted),
    "tokens-alone": Variant("no hint, no LoRA", design={"lora": None}, recipe={"hint_rate": 0.0}, open=_unhinted),
    "first-token": Variant("published head: first token as query", design={"query": "first_token"}),
    "pooled-question": Variant("published head: pooled question as query", design={"query": "pooled_question"}),
    "width-64": Variant("safety features half as wide", design={"width": 64}),
    "width-256": Variant("safety features twice as wide", design={"width": 256}),
    "clean-half": Variant("half of the clean samples", clean=0.5),
    "clean-quarter": Variant("a quarter of the clean samples", clean=0.25),
}


def run_ablations(
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str] | None = None,
    budget: Budget | None = None,
    samples: int = SAMPLES,
    progress: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train and measure what is not there yet; the same call goes on after any interruption.

    Args:
        out: folder, see `pocket_trainings`; numbers go to its `ablations`.
        seeds: one training of each variant for each.
        only: variants; default: all. The base is always measured.
        budget: default: the shipped adapter's.
        samples: validation records of each kind and style.
        progress: show bars.
        say: told of every variant that is done.

    Returns:
        `settings`, and under `variants` for each one what it is and its numbers by seed; also written to
        `ablations.json`.

    Raises:
        ConfigError: unknown variant, or the folder holds other trainings.
        DataError: too few records for the recipes or the promise of calibration.
    """
    names = check_names(only, VARIANTS, "variant")
    trainings = Trainings(out, budget or Budget(), progress)
    cases = cases_of(samples)
    folder = out / "ablations"
    found: dict[str, Any] = {BASE: {"what": "the base alone", "seeds": {}}}
    base = System(BASE, trainings.model, trainings.processor)
    found[BASE]["seeds"]["0"] = _measured(folder / f"{BASE}.json", base, cases, samples)
    for name in names:
        found[name] = {"what": VARIANTS[name].what, "seeds": {}}
    for seed in seeds:
        for name in names:
            variant = VARIANTS[name]
            weights = _train(trainings, variant.weights or name, seed)
            system = variant.open(trainings.model, trainings.processor, weights)
            numbers = _measured(folder / f"{name}-seed{seed}.json", system, cases, samples)
            found[name]["seeds"][str(seed)] = numbers
            say(f"{name}, seed {seed}: measured")
    results = {
        "settings": {"split": "validation", "samples": samples, "budget": trainings.budget.model_dump(mode="json")},
        "variants": found,
    }
    write_json(folder / "ablations.json", results)
    return results


def _train(trainings: Trainings, name: str, seed: int) -> Path:
    variant = VARIANTS[name]
    config = SafetyConfig.model_validate({**dict(SafetyConfig()), **variant.design})
    recipes = [_recipe(trainings, variant, stage, seed) for stage in (1, 2)]
    if trainings.finished(name, seed):
        return trainings.folder(name, seed)
    records = None if variant.clean == 1 else fewer_clean(trainings.records, variant.clean)
    return trainings.train_adapter(name, seed, config, recipes, records)


def _recipe(trainings: Trainings, variant: Variant, stage: int, seed: int) -> Recipe:
    changes = dict(variant.recipe) if stage == 2 else {}
    if variant.clean != 1:
        share = trainings.recipe(stage, seed).clean_share
        assert share is not None
        changes["clean_share"] = variant.clean * share / (variant.clean * share + 1 - share)
    return trainings.recipe(stage, seed, **changes)


def fewer_clean(records: Sequence[Record], share: float) -> list[Record]:
    """The records with the first part of the clean pictures only; risky ones and those without a picture stay."""
    clean = [index for index, record in enumerate(records) if record.image is not None and not record.is_risky]
    left_out = set(clean[round(share * len(clean)) :])
    return [record for index, record in enumerate(records) if index not in left_out]


def _measured(path: Path, system: System, cases: Sets, samples: int) -> dict[str, Any]:
    """Numbers that are there already for this very system and these cases, or new ones."""
    key = json.loads(json.dumps({"system": system.describe(), "samples": samples}))
    known = json.loads(path.read_bytes()) if path.exists() else {}
    if known.get("of") == key:
        return known["numbers"]
    numbers = measure(system, cases)
    numbers |= {"parameters": system.extra_parameters, "mb": system.extra_mb}
    system.close()
    write_json(path, {"of": key, "numbers": numbers})
    return numbers


def print_ablations(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `run_ablations` returned."""
    console = console or Console(width=200)
    chosen = results["settings"]
    for style in splits.STYLES:
        title = f"{style} style, {chosen['split']} split, {chosen['samples']} records of each kind; %, mean (range)"
        table = terminal_table(title, "variant", *COLUMNS.values(), "parameters", "MB")
        for name, variant in results["variants"].items():
            seeds = list(variant["seeds"].values())
            # Numbers that were measured before a column was there do not have it.
            cells = [spread([numbers[style].get(column) for numbers in seeds]) for column in COLUMNS]
            first = seeds[0]
            table.add_row(name, *cells, f"{first['parameters']:,}", f"{first['mb']:.2f}")
        console.print(table)
    for name, variant in results["variants"].items():
        console.print(f"{name}: {variant['what']}")


def ablations(
    context: typer.Context,
    out: Out,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant.")] = 3,
    only: Only = None,
    samples: Annotated[int, typer.Option(min=2, help="Records of each kind and style.")] = SAMPLES,
    records: Records = None,
    effort: Effort = None,
    calibration: Calibration = None,
) -> None:
    """The design with and without each of its parts, measured on pocket's validation split: mean and range of seeds.

    Numbers go to OUT/ablations. What is trained or measured stays; the same command goes on.
    """
    goes_on(context)
    budget = budget_of(records, effort, calibration)
    print_ablations(run_ablations(out, range(seeds), only, budget, samples, say=typer.echo))


app = command_line(ablations)


if __name__ == "__main__":
    run(app)
