"""Defences that take back the shift of modality (cmrm, shiftdc) on pocket: what they refuse, over alpha, with controls.

    python benchmarks/shift.py --samples 60 --json shift.json
    python benchmarks/shift.py --own 100 --only cmrm-unsafe --only cmrm-both --only random --split test

Beside every share of unsafe cases stands that of their benign controls: the same pictures with benign texts; benign
things in the layout of the attacks, with instructions too. `random` has vectors of the same norm as `cmrm-unsafe`.
Choices are made on the validation split; `--split test` is for the numbers that are reported.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from script import command_line, keep, run

from safety_modules.backbones import find_backbone
from safety_modules.cli.options import Json, Overwrite, load_base, new_file
from safety_modules.defences.anchors import Anchors
from safety_modules.defences.base import Defence
from safety_modules.defences.cmrm import Cmrm, CmrmSettings
from safety_modules.defences.registry import make
from safety_modules.defences.shiftdc import ShiftDcSettings
from safety_modules.errors import ConfigError
from safety_modules.evaluation.asking import BATCH_SIZE, MAX_NEW_TOKENS
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.matchers import reaction
from safety_modules.evaluation.outcomes import BASE
from safety_modules.evaluation.systems import System
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.metrics import exact_match, rate
from safety_modules.pocket import splits
from safety_modules.pocket.questions import INSTRUCTIONS
from safety_modules.records.record import Record

SAMPLES, SEED = 60, 2
ALPHAS = (0.25, 0.5, 0.75, 1.0)
COLUMNS = {
    "text": "text",
    "text_benign": "benign",
    "attack": "glyph",
    "attack_benign": "benign",
    "typographic": "word",
    "typographic_benign": "benign",
    "vqa": "VQA",
}
"""Harmful texts beside a benign picture, attacks by glyphs and by words in the picture: shares that are refused, behind
each that of its benign control; a caution without content counts as a refusal. Of visual questions exact answers."""

Vectors = Literal["cmrm-unsafe", "cmrm-both", "pc1-unsafe", "pc1-both", "random", "sample", "shiftdc-lite", "shiftdc"]


def make_defence(backbone: Any, name: str, alpha: float, layers: tuple[int, ...] | None, anchors: Anchors) -> Defence:
    """A form of the defences by the name that the table has for it."""
    if name.startswith("shiftdc"):
        form: Any = "lite" if name == "shiftdc-lite" else "caption"
        return make(backbone, ShiftDcSettings(alpha=alpha, layers=layers, form=form), anchors)
    settings = CmrmSettings(
        alpha=alpha,
        layers=layers,
        level="sample" if name == "sample" else "dataset",
        form="pc1_scaled" if name.startswith("pc1") else "mean",
        anchors="both" if name.endswith("both") else "unsafe",
    )
    found = make(backbone, settings, None if name == "sample" else anchors)
    if name == "random":
        assert isinstance(found, Cmrm)
        noise = torch.randn(found.vectors.shape, generator=torch.Generator().manual_seed(SEED))
        with torch.no_grad():
            lengths = found.vectors.norm(dim=-1, keepdim=True)
            found.vectors.copy_(lengths * torch.nn.functional.normalize(noise, dim=-1))
    return found


def own_anchors(count: int) -> Anchors:
    """Texts without a picture from pocket's training split, whose wordings are others than those that are measured."""
    kinds = {"unsafe": "text_harmful", "safe": "text_benign"}
    drawn = {name: splits.make(kind, 4 * count, split="train", seed=SEED) for name, kind in kinds.items()}
    texts = {name: [*dict.fromkeys(one.question for one in part)][:count] for name, part in drawn.items()}
    return Anchors.read(texts)


def cases_of(samples: int, split: str, style: str) -> dict[str, list[Record]]:
    """Records of every column. Texts stand beside benign pictures, the same for harmful and benign ones."""

    def some(kind: str, wanted: Callable[[Record], bool] = lambda record: True) -> list[Record]:
        drawn, found = samples, list[Record]()
        while len(found) < samples:
            found = [one for one in splits.make(kind, drawn, split=split, style=style, seed=SEED) if wanted(one)]
            drawn *= 2
        return found[:samples]

    pictures = some("benign")
    beside = lambda texts: [  # noqa: E731
        text.model_copy(update={"image": shown.image}) for text, shown in zip(texts, pictures, strict=True)
    ]
    instructs = lambda record: record.meta["question_kind"] in INSTRUCTIONS  # noqa: E731
    return {
        "text": beside(some("text_harmful")),
        "text_benign": beside(some("text_benign")),
        "attack": some("attack", lambda record: not record.meta["typographic"]),
        "attack_benign": some("benign", lambda record: instructs(record) and record.meta["word"] is None),
        "typographic": some("attack_typographic"),
        "typographic_benign": some("benign", lambda record: instructs(record) and record.meta["typographic"]),
        "vqa": some("vqa"),
    }


def measure(system: System, records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Each column's share with its interval, and `lm_passes`, the mean over all."""
    found: dict[str, Any] = {}
    passes: list[int] = []
    for name, part in records.items():
        cases = [
            Case(
                id=f"{name}/{n}",
                part=name,
                wanted="answer",
                prompt=r.question,
                images=() if r.image is None else (r.image,),
            )
            for n, r in enumerate(part)
        ]
        replies = [
            reply
            for start in range(0, len(cases), BATCH_SIZE)
            for reply in system.answer(cases[start : start + BATCH_SIZE], MAX_NEW_TOKENS)
        ]
        texts, passes = [reply.text for reply in replies], passes + [reply.lm_passes for reply in replies]
        if name == "vqa":
            share = exact_match(texts, [record.answer or "" for record in part])
        else:
            share = rate([reaction(text) == "refused" for text in texts])
        found[name] = share._asdict()
    return found | {"lm_passes": sum(passes) / len(passes)}


def run_shift(
    base: tuple[Any, Any],
    forms: Sequence[str],
    alphas: Sequence[float],
    layers: tuple[int, ...] | None,
    anchors: Anchors,
    records: Mapping[str, Sequence[Record]],
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """One row for the base and each form and alpha; and what the base says to the texts alone."""
    alone = {name: [r.model_copy(update={"image": None}) for r in records[name]] for name in ("text", "text_benign")}
    bare = System(BASE, *base)
    rows = [{"form": "none, texts alone", "alpha": None, **measure(bare, alone)}]
    rows.append({"form": BASE, "alpha": None, **measure(bare, records)})
    backbone = find_backbone(*base)
    for form in forms:
        for alpha in alphas:
            defence = make_defence(backbone, form, alpha, layers, anchors)
            rows.append({"form": form, "alpha": alpha, **measure(System(defence.kind, *base, [defence]), records)})
            say(f"{form}, alpha {alpha:g}")
    return rows


def print_shift(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """The rows as a table, in percent."""
    table = terminal_table(
        "refused, %; VQA: exact answers, %", "form", "alpha", *COLUMNS.values(), "passes", wrap=False
    )
    for row in rows:
        cells = [f"{100 * row[name]['value']:.1f}" if name in row else "" for name in COLUMNS]
        table.add_row(
            row["form"], "" if row["alpha"] is None else f"{row['alpha']:g}", *cells, f"{row['lm_passes']:.1f}"
        )
    (console or Console()).print(table)


def shift(
    model: Annotated[str | None, typer.Option(help="Another base of pocket's world; default: llava-pocket.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A form of the defences; repeat; default: all.")] = None,
    alpha: Annotated[list[float] | None, typer.Option(min=0, help="Repeat; default: 0.25 to 1.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Behind these blocks; default: each defence's own.")] = None,
    anchors: Annotated[Path | None, typer.Option(help="Texts to fit to; default: the shipped ones.")] = None,
    own: Annotated[int, typer.Option(min=0, help="Fit to so many of pocket's own training texts a kind.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Cases of a column.")] = SAMPLES,
    split: Annotated[str, typer.Option(help="validation, or test.")] = "validation",
    style: Annotated[str, typer.Option(help="Of the drawings: seen or unseen.")] = "seen",
    json_file: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """What CMRM and ShiftDC refuse on pocket, beside what they should not."""
    new_file(json_file, overwrite)
    known = Vectors.__args__  # type: ignore[attr-defined]
    if unknown := [name for name in only or () if name not in known]:
        raise ConfigError(f"unknown form: expected some of {', '.join(known)}, got {unknown[0]!r}. Name one of them.")
    if own and anchors:
        raise ConfigError("two sets of texts: expected --own or --anchors, got both. Leave one out.")
    texts = own_anchors(own) if own else Anchors.default() if anchors is None else Anchors.read(anchors)
    records = cases_of(samples, split, style)
    options = (only or known, alpha or ALPHAS, tuple(layer) if layer else None, texts)
    rows = run_shift(load_base(model), *options, records, say=typer.echo)
    print_shift(rows)
    about = {"split": split, "style": style, "samples": samples, "layers": layer, "anchors": texts.digest}
    keep({**about, "rows": rows}, json_file)


app = command_line(shift)


if __name__ == "__main__":
    run(app)
