"""`safety-modules train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from safety_modules.cli.border import train_border_adapter
from safety_modules.cli.calibrate import save_calibrated
from safety_modules.cli.extend import Change, extend_adapter, given
from safety_modules.cli.interruption import goes_on
from safety_modules.cli.options import Dtype, Model, Preset, Quantize, attach, grouped, load_base
from safety_modules.cli.outcome import Outcome
from safety_modules.cli.reading import Reading, load_records
from safety_modules.cli.recipes import Training, without_text
from safety_modules.cli.transfer import Transfer, train_transfer_adapter
from safety_modules.cli.words import FromWords, Taught, teach, train_words
from safety_modules.errors import ConfigError

CAPTIONS, BORDER = "tga", "davsp"
"""Defences that are trained by --defence."""
POCKET_RECIPES = ("llava-pocket/stage1", "llava-pocket/stage2")


@grouped
def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    model: Model = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    training: Training = Training(),
    reading: Reading = Reading(),
    preset: Preset = "default",
    validation: Annotated[
        list[str] | None, typer.Option(help="Records to measure the head on; repeat for several.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write a TensorBoard log into --runs.")] = False,
    extend: Annotated[
        str | None, typer.Option(help="Adapter to go on from, instead of a fresh one: folder, hub id or shipped name.")
    ] = None,
    change: Change = Change(),
    transfer: Transfer = Transfer(),
    words: FromWords = FromWords(),
    taught: Taught = Taught(),
) -> None:
    """Train safety modules in two stages, and save an adapter. Pocket's is calibrated too. With --defence tga: train
    that on pictures with captions; with --defence davsp: a border around pictures.

    With --words nothing is trained: sentences, and the CLIP that the base's vision tower comes from, make an adapter.
    Such an adapter is a --teacher of a trained one: it labels --pictures that have no labels.

    With --runs any interruption is survived: the same command goes on, and a finished run is not trained again. Another
    recipe, data or base is refused there. A finished adapter in --out is only replaced with --overwrite. Several
    processes: accelerate launch ... -m safety_modules train ...
    """
    if transfer.defence is not None:
        others: dict[str, Any] = {**change._asdict(), "recipe": training.recipe, "skip_bad": training.skip_bad}
        others |= {
            "extend": extend,
            "validation": validation,
            "tensorboard": tensorboard,
            "preset": preset != "default",
        }
        if transfer.defence == BORDER:
            others |= {"captions": transfer.captions, "form": transfer.form, "cache": training.cache}
        elif transfer.defence == CAPTIONS:
            others |= {**reading._replace(images=None)._asdict(), "data": training.data}
        else:
            raise ConfigError(
                f"nothing to train: expected --defence {CAPTIONS} or {BORDER}, got {transfer.defence!r}. Without "
                "--defence a guard is trained; others are fitted (safety-modules fit), or need neither."
            )
        if useless := given(**others):
            raise ConfigError(f"options refused: expected none of {useless} with --defence, got some. Leave them out.")
        if training.runs is not None:
            goes_on(context)
        if transfer.defence == BORDER:
            train_border_adapter(out, model, training, reading, quantize, dtype)
            return
        train_transfer_adapter(
            transfer, out, model, training, reading.images[0] if reading.images else None, quantize, dtype
        )
        return
    if useless := given(captions=transfer.captions, form=transfer.form):
        raise ConfigError(f"options refused: expected --defence tga with {useless}, got none. Name it.")
    data, runs, features = training.data, training.runs, training.features
    if words.words is not None:
        rest = {
            name: value for name, value in {**training._asdict(), **change._asdict()}.items() if name != "overwrite"
        }
        other = {"validation": validation, "tensorboard": tensorboard, "preset": preset != "default", "extend": extend}
        if useless := given(**rest, **other, **taught.chosen(), format=reading.given()):
            raise ConfigError(f"options refused: expected none of {useless} with --words, got some. Leave them out.")
        train_words(out, lambda: load_base(model, quantize, dtype), model, words, training.overwrite)
        return
    if words.clip is not None:
        raise ConfigError("no words: expected --words with --clip, got none. Name a file of sentences.")
    if runs is not None:
        goes_on(context)
    if training.skip_bad and runs is None:
        raise ConfigError("no place for the list of bad records: expected --runs with --skip-bad, got none. Name it.")
    if extend is not None:
        if useless := given(
            validation=validation, tensorboard=tensorboard, preset=preset != "default", **taught.chosen()
        ):
            raise ConfigError(f"options refused: expected none of {useless} with --extend, got some. Leave them out.")
        extend_adapter(extend, out, lambda adapter: attach(model, adapter, quantize, dtype), training, reading, change)
        return
    if changes := given(**change._asdict()):
        raise ConfigError(f"no adapter to change: expected --extend with {changes}, got none. Name it.")
    from safety_modules.attach.attach import attach_safety
    from safety_modules.config import SafetyConfig
    from safety_modules.pocket import mix
    from safety_modules.records import GoodRecords
    from safety_modules.training import distributed, train_safety

    taught.check(data)
    if data is None and taught.teacher is None and (model is not None or training.skip_bad or reading.given()):
        raise ConfigError("nothing to train on: expected --data with these options, got none. Name a data file.")
    # Before the base is loaded, and before somebody changes the files.
    chosen = training.recipes(POCKET_RECIPES)
    outcome = Outcome(out, runs, [one.stage for one in chosen.recipes], training.overwrite)
    outcome.check()
    base, processor = load_base(model, quantize, dtype)
    pseudo = teach(base, processor, taught, features) if taught.teacher is not None else []
    safety = attach_safety(base, processor, config=SafetyConfig.preset(preset))
    options, held_out_options = reading.options(safety.config.taxonomy, data or (), validation or ())
    if pseudo and data is None:
        records = GoodRecords(pseudo)
        if training.recipe is None:
            chosen = without_text(chosen, pseudo)
    elif data is None:
        records = GoodRecords(mix.training_records())
    else:
        records = load_records(data, options, safety, cache=features, left_out=training.left_out)
        if training.recipe is None:
            chosen = without_text(chosen, records.records)
        if pseudo:
            from safety_modules.training.words import taught as together

            records = GoodRecords(together(records.records, pseudo))
    held_out = load_records(validation, held_out_options, safety, cache=features) if validation else None
    train_safety(safety, records, chosen.recipes, held_out, runs, cache_dir=features, tensorboard=tensorboard)
    if distributed.rank() > 0:
        return
    metadata = {
        "data": [Path(path).name for path in data] if data else [] if pseudo else "pocket",
        "records": len(records.records),
        **({"teacher": taught.record(len(pseudo))} if pseudo else {}),
        **chosen.record(),
    }
    written = outcome.save(safety, metadata)
    if data is not None or pseudo:
        if written:
            typer.echo(f"{out}: not calibrated yet. Next: safety-modules calibrate {out} --benign FILE")
    elif written or "calibration" not in (outcome.known() or {}):
        settings: Any = {"max_false_alarm": mix.MAX_FALSE_ALARM, "cache_dir": training.cache}
        save_calibrated(out, attach(None, out), mix.calibration_records(), **settings)
