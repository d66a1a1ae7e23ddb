"""`safety-modules audit`."""

from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.interruption import goes_on
from safety_modules.cli.options import Adapter, Model
from safety_modules.cli.reading import ImageKey
from safety_modules.errors import ConfigError


def audit(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for what is found; the same command on it goes on.")],
    data: Annotated[str | None, typer.Argument(help="Folder of pictures, data file, shards or hf:// address.")] = None,
    model: Model = None,
    adapter: Adapter = None,
    images: Annotated[
        Path | None, typer.Option(help="Where relative image paths start; default: beside the data.")
    ] = None,
    image_key: ImageKey = None,
    format: Annotated[
        str | None,
        typer.Option(help="jsonl, llava, vlguard, csv, parquet, folder, hf or webdataset; default: recognised."),
    ] = None,
    question: Annotated[str | None, typer.Option(help="folder: what is asked about every picture.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="hf: read while loading.")] = False,
    policy: Annotated[Path | None, typer.Option(help="Policy file; default: the shipped one.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda where there is one.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the tower; default: bfloat16 on CUDA, float32 on the CPU.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures in one run of the tower.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode pictures; default: all cores but one.")
    ] = None,
    apply: Annotated[
        Path | None, typer.Option(help="Marks of a review: write the data without what was confirmed.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="--apply: where the cleaned copy goes; default: in OUT.")] = None,
    estimate: Annotated[Path | None, typer.Option(help="Marks of a random sample: print the precision.")] = None,
) -> None:
    """Find the risky pictures of a dataset; no language model is loaded. Interrupted, the same command goes on.

    --apply and --estimate work on an audit that is done.
    """
    from safety_modules.cli import audit_review

    if apply is not None or estimate is not None:
        if apply is not None:
            audit_review.apply(out, apply, to)
        if estimate is not None:
            audit_review.estimate(out, estimate)
        return
    if data is None:
        raise ConfigError("nothing to audit: expected DATA, got none. Name a folder, file, shards or address.")

    from safety_modules.audit import audit as run
    from safety_modules.audit.report import write_report
    from safety_modules.backbones.bases import find_base
    from safety_modules.paths import adapter_dir, checkpoint_dir
    from safety_modules.policy.policy import Policy

    if adapter is None and model is not None:
        raise ConfigError("no adapter: expected --adapter with --model, got none. Name its folder or hub id.")
    goes_on(context)
    found = run(
        data,
        out,
        checkpoint_dir() if model is None else find_base(model),
        adapter or adapter_dir(),
        image_dir=images,
        image_key=image_key,
        format=format,
        question=question,
        streaming=streaming,
        policy=None if policy is None else Policy.from_yaml(policy),
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
    )
    if found.get("notice"):
        typer.echo(found["notice"])
    names = ("scored", "duplicates", "unreadable", "text_only")
    counts = ", ".join(f"{found[name]} {name.replace('_', ' ')}" for name in names)
    typer.echo(f"{found['rows']} rows: {counts}; {found['images_per_second']} pictures a second")
    for what, count in found["left_out"].items():
        typer.echo(f"{count} passed over: {what}")
    if (moving := found["animations"])["rows"]:
        typer.echo(f"{moving['rows']} animations: {moving['judged']} of {moving['frames']} frames judged")
    by_type = ", ".join(f"{name} {count}" for name, count in found["by_type"].items() if count)
    typer.echo(f"{found['flagged']} flagged{': ' if by_type else ''}{by_type}")
    typer.echo(f"{found['label_disagreements']['count']} labels doubted; report: {write_report(out)}")
