"""Whether a language model's safety on texts reaches pictures on pocket: the forms of tga, trained and measured.

    python benchmarks/transfer.py --samples 100 --json transfer.json
    python benchmarks/transfer.py --form queries --seed 0 --seed 1 --seed 2 --split test --samples 200
    python benchmarks/transfer.py --form last --form answers --risky 0.5

Beside every share of attacks that are refused stands that of their benign controls, in the same layouts and with the
same kinds of questions: what refuses both has learnt a layout. Choices are made on the validation split; `--split test`
is for the numbers that are reported. What the language model refuses in words is what there is to transfer: of the
benign cases `worded` are those whose question it answers where no picture is shown.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from script import command_line, keep, run, spread
from shift import measure

from safety_modules.attach.attach import attach_safety
from safety_modules.backbones import find_backbone
from safety_modules.cli.options import Cache, Json, Overwrite, load_base, new_file
from safety_modules.config import LoraSettings
from safety_modules.defences.tga import PROJECTOR_LINEARS, Tga, TgaSettings
from safety_modules.errors import ConfigError
from safety_modules.evaluation.asking import ask_records
from safety_modules.evaluation.matchers import reaction
from safety_modules.evaluation.outcomes import BASE
from safety_modules.evaluation.systems import System
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.pocket import splits
from safety_modules.records.record import Record
from safety_modules.training.transfer import TransferRecipe, train_transfer

SEED, CAPTIONS = 2, 4000
LORA = LoraSettings(r=32, alpha=32, dropout=0.0, target_modules=PROJECTOR_LINEARS)
FORMS: dict[str, TgaSettings] = {
    "pooled": TgaSettings(form="pooled", lora=LORA),
    "last": TgaSettings(form="last", lora=LORA),
    "answers": TgaSettings(form="answers", lora=LORA),
    "queries": TgaSettings(),
    "queries-instead": TgaSettings(place="instead"),
    "queries-beside": TgaSettings(place="beside"),
}
STYLES, WORDED = ("seen", "unseen"), "worded"
PAIRS = {"attack": "glyph", "attack_typographic": "word"}
CONTROLS = {"attack": "control", "attack_typographic": "control_typographic"}


def training_records(count: int, risky: float) -> list[Record]:
    """Pictures with captions and questions; of risky ones, in this share, no answer is known."""
    many = round(count * risky)
    records = splits.make("captioned_clean", count - many, split="train", seed=SEED)
    return [
        *records,
        *(one.model_copy(update={"answer": None}) for one in _make("captioned_risky", many, split="train", seed=SEED)),
    ]


def _make(kind: str, count: int, **options: Any) -> list[Record]:
    return splits.make(kind, count, **options) if count else []


def cases_of(samples: int, split: str) -> dict[str, list[Record]]:
    """Records of every column."""
    found = {
        f"{kind} {style}": splits.make(kind, samples, split=split, style=style, seed=SEED)
        for style in STYLES
        for pair in CONTROLS.items()
        for kind in pair
    }
    return found | {kind: splits.make(kind, samples, split=split, seed=SEED) for kind in ("benign", "vqa")}


def worded(base: tuple[Any, Any], records: Sequence[Record]) -> list[Record]:
    """Those whose question the language model does not refuse where no picture is shown."""
    said = ask_records(*base, [record.model_copy(update={"image": None}) for record in records]).texts
    return [record for record, text in zip(records, said, strict=True) if reaction(text) != "refused"]


def transferred(row: Mapping[str, Any], kind: str, style: str) -> float:
    """Attacks refused less matched benign controls refused."""
    return float(row[f"{kind} {style}"]["value"] - row[f"{CONTROLS[kind]} {style}"]["value"])


def run_transfer(
    base: tuple[Any, Any],
    forms: Sequence[str],
    seeds: Sequence[int],
    recipe: TransferRecipe,
    captions: Sequence[Record],
    records: Mapping[str, Sequence[Record]],
    cache: Any = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """One row for the base, and one for each form and seed."""
    records = {**records, WORDED: worded(base, records["benign"])}
    rows = [{"form": BASE, "seed": None, "mb": 0.0, "train_seconds": 0.0, **measure(System(BASE, *base), records)}]
    backbone = find_backbone(*base)
    for seed in seeds:
        trained: dict[Any, tuple[Tga, float]] = {}
        for form in forms:
            settings, began = FORMS[form], time.perf_counter()
            # Where the tokens are read in the picture's place, training is the same whether the picture is asked too.
            alike = settings.model_copy(update={"place": "first"}) if settings.place == "instead" else settings
            if alike not in trained:
                tga = Tga(backbone, alike, seed)
                safety = attach_safety(*base, defence=tga)
                train_transfer(safety, captions, recipe.model_copy(update={"seed": seed}), cache_dir=cache)
                safety.detach()
                trained[alike] = tga, time.perf_counter() - began
            tga, seconds = trained[alike]
            tga.settings = tga.settings.model_copy(update={"place": settings.place})  # its threshold is calibrated
            size = sum(one.numel() for _, one in tga.named_parameters())
            row = {"form": form, "seed": seed, "mb": 2 * size / 1e6, "train_seconds": seconds}
            rows.append(row | measure(System(Tga.kind, *base, [tga]), records))
            say(f"{form}, seed {seed}")
    return rows


def print_transfer(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """The rows as a table, in percent; of several seeds mean and range."""
    names = [f"{word}{'' if style == STYLES[0] else f', {style}'}" for word in PAIRS.values() for style in STYLES]
    heads = [head for name in names for head in (name, "control", "less")]
    table = terminal_table(
        "refused, %; VQA: exact answers, %",
        "form",
        *heads,
        "benign",
        WORDED,
        "VQA",
        "lost",
        "MB",
        "passes",
        "s",
        wrap=False,
    )
    lost = next(row["vqa"]["value"] for row in rows if row["form"] == BASE)
    for form in dict.fromkeys(row["form"] for row in rows):
        own = [row for row in rows if row["form"] == form]
        cells = []
        for kind, control in CONTROLS.items():
            for style in STYLES:
                cells += [spread([row[f"{name} {style}"]["value"] for row in own]) for name in (kind, control)]
                cells.append(spread([transferred(row, kind, style) for row in own]))
        cells += [spread([row[name]["value"] for row in own]) for name in ("benign", WORDED, "vqa")]
        cells.append(spread([lost - row["vqa"]["value"] for row in own]))
        cells += [f"{own[0]['mb']:.2f}", spread([row["lm_passes"] for row in own], 1), f"{own[0]['train_seconds']:.0f}"]
        table.add_row(form, *cells)
    (console or Console(width=240)).print(table)


def transfer(
    model: Annotated[str | None, typer.Option(help="Another base of pocket's world; default: llava-pocket.")] = None,
    form: Annotated[list[str] | None, typer.Option(help="Of tga; repeat; default: all.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Of the training; repeat; default: 0.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the training; default: the recipe's.")] = None,
    captions: Annotated[int, typer.Option(min=2, help="Pictures with captions to train on.")] = CAPTIONS,
    risky: Annotated[float, typer.Option(min=0, max=1, help="Share of pictures of risky things among them.")] = 0.0,
    samples: Annotated[int, typer.Option(min=1, help="Cases of a column.")] = 100,
    split: Annotated[str, typer.Option(help="validation, or test.")] = "validation",
    cache: Cache = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """Train the forms of tga on pocket's captions, and measure what reaches pictures beside what should not."""
    new_file(json_file, overwrite)
    if unknown := [name for name in form or () if name not in FORMS]:
        raise ConfigError(f"unknown form: expected some of {', '.join(FORMS)}, got {unknown[0]!r}. Name one of them.")
    recipe = TransferRecipe() if steps is None else TransferRecipe(steps=steps)
    base, records = load_base(model), cases_of(samples, split)
    rows = run_transfer(
        base, form or [*FORMS], seed or [0], recipe, training_records(captions, risky), records, cache, typer.echo
    )
    print_transfer(rows)
    about = {"split": split, "samples": samples, "captions": captions, "risky": risky, "steps": recipe.steps}
    keep({**about, "rows": rows}, json_file)


app = command_line(transfer)


if __name__ == "__main__":
    run(app)
