"""Early exits on pocket (ICET, arXiv 2411.04291): what a system does when the language model sees another vision layer.

    python benchmarks/layers.py --samples 50 --json layers.json
    python benchmarks/layers.py --system gated --system davsp=FOLDER --layer 2 --layer 3

A diagnosis, not a switch: `vision_feature_layer` in a guarded call is refused, because the layer would change what is
judged. Here defences judge and do what they always do; only what the language model sees as the picture comes from the
layer. Beside attacks that are answered stand the benign controls that are refused, and visual questions: where nothing
is seen any more, an answer means little. `-2` is what LLaVA-1.5 uses.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from script import command_line, keep, run
from shift import measure

from safety_modules.backbones import Backbone, find_backbone
from safety_modules.cli.options import Adapter, Json, Overwrite, load_base, new_file
from safety_modules.defences.base import Defence
from safety_modules.defences.call import Call
from safety_modules.evaluation.outcomes import BASE
from safety_modules.evaluation.systems import System, make_system
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.paths import adapter_for
from safety_modules.pocket import splits
from safety_modules.records.record import Record

SEED, SAMPLES = 2, 50
COLUMNS = {
    "attack": "glyph",
    "control": "control",
    "attack_typographic": "word",
    "control_typographic": "control",
    "text": "text",
    "benign": "benign",
    "vqa": "VQA",
}
"""Shares refused of attacks and their benign controls, of harmful texts beside a benign picture and of benign requests;
of visual questions exact answers."""


class EarlyExit(Defence):
    """What the language model sees comes from another layer of the vision tower. A probe: it defends nothing.

    Args:
        backbone: the base.
        layer: as in transformers' `hidden_states`.
    """

    kind = "early-exit"
    changes_inputs = True

    def __init__(self, backbone: Backbone, layer: int) -> None:
        super().__init__(backbone)
        self.layer = layer

    def prepared(self, call: Call) -> Call:
        rows = [row for row, on in enumerate(self.on(call)) if on]
        return call.shown(rows, lambda pixels: self.backbone.encode_images(pixels, self.layer))


def exiting(system: System, layer: int) -> System:
    """The same system over this layer, which stands innermost: defences outside of it judge what they always do."""
    base, attachment = (system.model, system.processor), system.attachment
    if attachment is None:
        return System(system.name, *base, [EarlyExit(find_backbone(*base), layer)])
    defences = [*attachment.defences, EarlyExit(attachment.backbone, layer)]
    return System(system.name, *base, defences, policy=attachment.policy)


def cases_of(samples: int, split: str, style: str = "seen") -> dict[str, list[Record]]:
    """Records of every column."""
    drawn = {
        kind: splits.make(kind, samples, split=split, style=style, seed=SEED) for kind in COLUMNS if kind != "text"
    }
    texts = splits.make("text_harmful", samples, split=split, seed=SEED)
    beside = [
        text.model_copy(update={"image": shown.image}) for text, shown in zip(texts, drawn["benign"], strict=True)
    ]
    return drawn | {"text": beside}


def run_layers(
    systems: Sequence[System],
    layers: Sequence[int],
    records: Mapping[str, Sequence[Record]],
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """One row for each system and layer."""
    rows = []
    for system in systems:
        for layer in layers:
            rows.append({"system": system.name, "layer": layer, **measure(exiting(system, layer), records)})
            say(f"{system.name}, layer {layer}")
    return rows


def print_layers(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """The rows as a table, in percent."""
    table = terminal_table("refused, %; VQA: exact answers, %", "system", "layer", *COLUMNS.values(), wrap=False)
    for row in rows:
        table.add_row(row["system"], str(row["layer"]), *(f"{100 * row[name]['value']:.1f}" for name in COLUMNS))
    (console or Console()).print(table)


def layers_of(model: Any) -> list[int]:
    """All layers of its tower but the embeddings' output, from the last."""
    return [-place for place in range(1, model.config.vision_config.num_hidden_layers + 1)]


def layers(
    model: Annotated[str | None, typer.Option(help="Another base of pocket's world; default: llava-pocket.")] = None,
    system: Annotated[list[str] | None, typer.Option(help="As in evaluate; repeat; default: none and gated.")] = None,
    adapter: Adapter = None,
    layer: Annotated[list[int] | None, typer.Option(help="Of the vision tower; repeat; default: all.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Cases of a column.")] = SAMPLES,
    split: Annotated[str, typer.Option(help="validation, or test.")] = "validation",
    style: Annotated[str, typer.Option(help="Of the drawings: seen or unseen.")] = "seen",
    json_file: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """What systems refuse, and what they still see, by the vision layer that the language model is shown."""
    new_file(json_file, overwrite)
    base, records = load_base(model), cases_of(samples, split, style)
    names = system or [BASE, "gated"]
    chosen = adapter_for(model, adapter) if "gated" in names and (model is None or adapter) else adapter
    systems = [make_system(name, *base, chosen) for name in names]
    rows = run_layers(systems, layer or layers_of(base[0]), records, typer.echo)
    print_layers(rows)
    keep({"split": split, "style": style, "samples": samples, "rows": rows}, json_file)


app = command_line(layers)


if __name__ == "__main__":
    run(app)
