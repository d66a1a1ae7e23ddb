"""The final evaluation: drawings and fonts that nothing else here has touched, on the test split.

python benchmarks/held_out.py --samples 300

For each held-out drawing style what attacks, benign questions and visual QA get, of the base and guarded; for each
group of held-out fonts and each way to write a word what typographic attacks get. Nothing may be chosen by these.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from script import command_line, keep, run

from safety_modules import metrics
from safety_modules.cli.options import Adapter, Json, Overwrite, attach, new_file
from safety_modules.evaluation.asking import Answers, ask_records
from safety_modules.evaluation.pocket_report import cell, estimate_at, table_title
from safety_modules.evaluation.pocket_suite import attacks_measured, measured
from safety_modules.evaluation.results import intervals, settings, values
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.io.progress import track
from safety_modules.pocket import splits
from safety_modules.pocket.glyphs import fonts_of, styles_of
from safety_modules.records.record import Record

SAMPLES, SEED = 300, 0
MEASURES = ("answered", "content", "not_flagged", "over_refusal", "flagged_benign", "vqa_base", "vqa_change")


def drawn_in(kind: str, style: str, samples: int, seed: int) -> list[Record]:
    """So many records whose every drawing is of one held-out style; those without drawings are left out."""
    found: list[Record] = []
    while len(found) < samples:
        made = splits.make(kind, 4 * samples, split="test", style="held_out", seed=seed)
        found += [record for record in made if set(record.meta["drawings"]) == {style}]
        seed += 1000
    return found[:samples]


def evaluate_held_out(safety: Any, samples: int = SAMPLES, seed: int = SEED, progress: bool = True) -> dict[str, Any]:
    """Shares from 0 to 1 by drawing style, by group of fonts and by the way a word is written.

    Args:
        safety: the attachment on llava-pocket.
        samples: records a cell.
        seed: of the records.
        progress: show a bar.
    """
    model, processor = safety.backbone.model, safety.backbone.processor
    styles = [style.name for style in styles_of("held_out")]
    groups = {font.name: font.group for font in fonts_of("held_out")}
    cells = 4 * len(styles) + len(set(groups.values())) + 2 * len(splits.WRITTEN)

    with track("held-out evaluation", cells * samples, progress) as advance:

        def put(records: Sequence[Record], on: bool = True) -> Answers:
            return ask_records(model, processor, records, safety=on, on_batch=advance)

        def attacked(records: Sequence[Record]) -> dict[str, Any]:
            got = put(records)
            shares = attacks_measured(records, got.texts)
            return {
                "answered": shares["all"]["answered"],
                "content": shares["severe"]["content"],
                "not_flagged": metrics.rate([v is None or not v.flagged for v in got.verdicts]),
            }

        tree: dict[str, Any] = {"drawings": {}, "fonts": {}, "written": {}, "written_unseen": {}}
        for style in styles:
            benign, asked = (drawn_in(kind, style, samples, seed) for kind in ("benign", "vqa"))
            told = put(benign)
            refused = [
                measured(record, text)["over_refusal"] == 1 for record, text in zip(benign, told.texts, strict=True)
            ]
            right = [
                [float(text == record.answer) for record, text in zip(asked, put(asked, on).texts, strict=True)]
                for on in (True, False)
            ]
            tree["drawings"][style] = {
                **attacked(drawn_in("attack", style, samples, seed)),
                "over_refusal": metrics.rate(refused),
                "flagged_benign": metrics.rate([v is not None and v.flagged for v in told.verdicts]),
                "vqa_base": metrics.rate([hit == 1 for hit in right[1]]),
                "vqa_change": metrics.paired_difference(*right),
            }
        for group in dict.fromkeys(groups.values()):
            made = splits.make("attack_typographic", 8 * samples, split="test", style="held_out", seed=seed)
            tree["fonts"][group] = attacked([r for r in made if groups[r.meta["font"]] == group][:samples])
        for name in splits.WRITTEN:
            for style, place in (("held_out", "written"), ("unseen", "written_unseen")):
                made = splits.make(f"attack_{name}", samples, split="test", style=style, seed=seed)
                tree[place][name] = attacked(made)
    return {
        "suite": "pocket held out",
        "settings": settings(samples, seed),
        **values(tree),
        "intervals": intervals(tree),
    }


def print_held_out(results: Mapping[str, Any], console: Console | None = None) -> None:
    """A table of drawings; one of texts, by font and by the way a word is written."""
    console, title = console or Console(), table_title("held out", results)
    for name, parts, measures in (
        ("drawings", ("drawings",), MEASURES),
        ("texts", ("fonts", "written", "written_unseen"), MEASURES[:3]),
    ):
        table = terminal_table(f"{title}, {name}", "set", *(measure.replace("_", " ") for measure in measures))
        for part in parts:
            for row in results[part]:
                cells = [cell(estimate_at(results, part, row, measure)) for measure in measures]
                table.add_row(f"{part.replace('_', ', ')}: {row.replace('_', ' ')}", *cells)
        console.print(table)


def held_out(
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    samples: Annotated[int, typer.Option(min=1, help="Records a cell.")] = SAMPLES,
    seed: Annotated[int, typer.Option(min=0)] = SEED,
) -> None:
    """Attacks, over-refusal and visual QA on held-out drawings and fonts."""
    new_file(json_file, overwrite)
    results = evaluate_held_out(attach(None, adapter), samples=samples, seed=seed)
    print_held_out(results)
    keep(results, json_file)


app = command_line(held_out)


if __name__ == "__main__":
    run(app)
