"""A border around pictures (davsp) on pocket: first what it costs visual questions, then what it stops, with controls.

    python -m safety_modules train --defence davsp --out border --runs border-runs
    python benchmarks/border.py --adapter border --samples 100 --json border.json

Borders without anything learnt say what making the picture smaller costs, over what lies under them: its edges carried
on, or nothing, as published. `shuffled` has the trained border's own values in another order: what does as much has
learnt nothing. Beside every share of attacks that are refused stands that of their benign controls, in the same layouts
and with the same kinds of questions. Choices are made on the validation split; `--split test` is for the numbers that
are reported.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from script import command_line, keep, run
from shift import measure
from transfer import CONTROLS, PAIRS, STYLES, cases_of

from safety_modules.attach.adapters import fit_adapter
from safety_modules.backbones import Backbone, find_backbone
from safety_modules.cli.options import Json, Overwrite, load_base, new_file
from safety_modules.defences.adashield import AdaShieldS
from safety_modules.defences.base import Defence
from safety_modules.defences.davsp import Davsp, DavspSettings
from safety_modules.errors import ConfigError
from safety_modules.evaluation.outcomes import BASE
from safety_modules.evaluation.systems import System
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.records.record import Record

WIDTHS, SEED = (4, 8), 0


def untrained(backbone: Backbone, width: int, under: Any) -> Davsp:
    """A border to which nothing was added."""
    found = Davsp(backbone, DavspSettings(width=width, under=under))
    found.trained = True
    return found


def shuffled(davsp: Davsp) -> Davsp:
    """The same values in another order."""
    found = untrained(davsp.backbone, davsp.settings.width, davsp.settings.under)
    order = torch.randperm(davsp.border.shape[1], generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        found.border.copy_(davsp.border[:, order])
    return found


def trained(backbone: Backbone, folder: Path) -> Davsp:
    """The border of an adapter. Raises ConfigError where it has none."""
    found = next((one for one in fit_adapter(backbone, folder) if isinstance(one, Davsp)), None)
    if found is None:
        raise ConfigError(
            f"no border: expected an adapter with davsp, got {folder}. Train one: safety-modules train --defence davsp."
        )
    return found


def forms(backbone: Backbone, widths: Sequence[int], adapters: Sequence[Path]) -> Iterator[tuple[str, list[Defence]]]:
    """Every row's name and what stands on the base in it."""
    yield BASE, []
    for width in widths:
        for under in ("edges", "nothing"):
            yield f"untrained, {width} px, {under}", [untrained(backbone, width, under)]
    for folder in adapters:
        davsp = trained(backbone, folder)
        yield f"{folder.name}, shuffled", [shuffled(davsp)]
        yield folder.name, [davsp]
        yield f"{folder.name} and {AdaShieldS.kind}", [AdaShieldS(backbone), davsp]
    if adapters:
        yield AdaShieldS.kind, [AdaShieldS(backbone)]


def run_border(
    base: tuple[Any, Any],
    widths: Sequence[int],
    adapters: Sequence[Path],
    records: Mapping[str, Sequence[Record]],
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """One row for the base, each untrained border, and each adapter with its controls."""
    rows = []
    for name, defences in forms(find_backbone(*base), widths, adapters):
        size = sum(one.numel() for defence in defences for _, one in defence.named_parameters())
        rows.append({"form": name, "mb": 2 * size / 1e6, **measure(System(name, *base, defences), records)})
        lost = rows[0]["vqa"]["value"] - rows[-1]["vqa"]["value"]
        say(f"{name}: visual QA {100 * rows[-1]['vqa']['value']:.1f}, lost {100 * lost:.1f}")
    return rows


def print_border(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """The rows as a table, in percent: what is lost of visual questions stands first."""
    names = [f"{word}{'' if style == STYLES[0] else f', {style}'}" for word in PAIRS.values() for style in STYLES]
    heads = [head for name in names for head in (name, "control")]
    table = terminal_table(
        "VQA: exact answers, %; refused, %", "form", "VQA", "lost", *heads, "benign", "MB", wrap=False
    )
    base = rows[0]["vqa"]["value"]
    for row in rows:
        cells = [row["vqa"]["value"], base - row["vqa"]["value"]]
        for kind, control in CONTROLS.items():
            cells += [row[f"{name} {style}"]["value"] for style in STYLES for name in (kind, control)]
        cells.append(row["benign"]["value"])
        table.add_row(row["form"], *(f"{100 * cell:.1f}" for cell in cells), f"{row['mb']:.2f}")
    (console or Console(width=200)).print(table)


def border(
    model: Annotated[str | None, typer.Option(help="Another base of pocket's world; default: llava-pocket.")] = None,
    adapter: Annotated[list[Path] | None, typer.Option(help="With a trained border; repeat.")] = None,
    width: Annotated[list[int] | None, typer.Option(min=1, help="Of untrained borders; repeat; default: 4, 8.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Cases of a column.")] = 100,
    split: Annotated[str, typer.Option(help="validation, or test.")] = "validation",
    json_file: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """What borders cost visual questions on pocket, and what they stop beside what they should not."""
    new_file(json_file, overwrite)
    base, records = load_base(model), cases_of(samples, split)
    rows = run_border(base, width or WIDTHS, adapter or (), records, typer.echo)
    print_border(rows)
    keep({"split": split, "samples": samples, "rows": rows}, json_file)


app = command_line(border)


if __name__ == "__main__":
    run(app)
