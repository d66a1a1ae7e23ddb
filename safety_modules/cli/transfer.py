"""`safety-modules train --defence tga`: from pictures with captions to an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from safety_modules.cli.options import load_base
from safety_modules.cli.outcome import Outcome
from safety_modules.cli.recipes import Training, validated, value_of
from safety_modules.errors import ConfigError

if TYPE_CHECKING:
    from safety_modules.records import Record

POCKET_CAPTIONS = 4000
"""Pictures of pocket's with captions, none of them of anything risky."""


class Transfer(NamedTuple):
    """What the command line says about a defence that is trained on captions (see `options.grouped`)."""

    defence: Annotated[
        str | None,
        typer.Option(help="Train another defence than a guard: tga on captions, or davsp, like a guard, on labels."),
    ] = None
    captions: Annotated[
        Path | None,
        typer.Option(
            help="tga: pictures with captions: LLaVA's or COCO-like JSON, JSON lines, CSV, or a folder with text files."
        ),
    ] = None
    form: Annotated[
        str | None, typer.Option(help="tga: queries (default), answers, last, or pooled (as published).")
    ] = None


def train_transfer_adapter(
    transfer: Transfer,
    out: Path,
    model: str | None,
    training: Training,
    image_dir: str | None,
    quantize: str | None,
    dtype: str | None,
) -> None:
    """Train tga on captions and save it."""
    from safety_modules.attach.attach import attach_safety
    from safety_modules.backbones.bases import find_base, local_config
    from safety_modules.defences.tga import TgaSettings
    from safety_modules.io.places import check_writable
    from safety_modules.pocket import splits
    from safety_modules.records.captions import read_captions
    from safety_modules.training.transfer import TransferRecipe, train_transfer

    if transfer.captions is None and model is not None:
        raise ConfigError("nothing to train on: expected --captions with --model, got none. Name a file or a folder.")
    settings, recipe = own_settings(TgaSettings, TransferRecipe, training, form=transfer.form)
    outcome = Outcome(out, None, overwrite=training.overwrite)
    outcome.check()
    check_writable(training.runs)
    if model is not None:
        local_config(find_base(model))  # the first thing that is missing is the first that is told
    if transfer.captions is None:
        records: list[Record] = splits.make("captioned_clean", POCKET_CAPTIONS, split="train")
    else:
        records = read_captions(transfer.captions, image_dir)
    base, processor = load_base(model, quantize, dtype)
    safety = attach_safety(base, processor, defence=settings)
    losses = train_transfer(safety, records, recipe, cache_dir=training.features, runs=training.runs)
    outcome.save(
        safety,
        {
            "captions": "pocket" if transfer.captions is None else transfer.captions.name,
            "records": len(records),
            "recipe": recipe.model_dump(mode="json"),
        },
    )
    loss = f"; loss {losses[-1]:.3f}" if losses else ""
    typer.echo(
        f"{out}: tga, {settings.form}, {len(losses)} of {recipe.steps} steps now, on {len(records)} captions{loss}."
    )


def own_settings(kind: type[Any], recipe: type[Any], training: Training, **given: Any) -> tuple[Any, Any]:
    """Settings of a defence and its recipe, from the options and `--set key=value`.

    Args:
        kind: of the settings.
        recipe: of the recipe.
        training: what the command line says.
        given: settings that have options of their own; None = not given.

    Raises:
        ConfigError: a key that neither has, or values that are refused.
    """
    name_of = kind.model_fields["kind"].default
    values: dict[Any, dict[str, Any]] = {kind: {k: v for k, v in given.items() if v is not None}, recipe: {}}
    if training.steps is not None:
        values[recipe]["steps"] = training.steps
    for setting in training.settings or ():
        name, equals, text = setting.partition("=")
        top = name.partition(".")[0]
        owner = next(
            (one for one in values if top in one.model_fields and (top == name or top == "lora") and top != "kind"),
            None,
        )
        if not equals or owner is None:
            known = [name for one in values for name in one.model_fields if name != "kind"]
            raise ConfigError(
                f"--set refused: expected key=value with one of {', '.join(known)}, got {setting!r}. Correct it."
            )
        values[owner][name] = value_of(text)
    if "lora" in values[kind]:
        raise ConfigError("--set refused: expected lora.r or lora.alpha, got lora. Name one of them.")
    lora = {name.partition(".")[2]: values[kind].pop(name) for name in [*values[kind]] if "." in name}
    if lora:
        values[kind]["lora"] = kind().lora.model_dump() | lora
    return validated(name_of, kind, values[kind]), validated(name_of, recipe, values[recipe])
