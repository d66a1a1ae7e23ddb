"""`safety-modules data`."""

from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.options import Images


def check(
    path: Annotated[str, typer.Argument(help="Data file, folder, shards or hf:// address.")],
    test: Annotated[str | None, typer.Option(help="Test data: nothing of it may be in PATH.")] = None,
    format: Annotated[
        str | None,
        typer.Option(help="jsonl, llava, vlguard, csv, parquet, folder, hf or webdataset; default: recognised."),
    ] = None,
    images: Images = None,
    new_type: Annotated[str | None, typer.Option(help="A risk type that is to be added to the usual ones.")] = None,
    categories: Annotated[Path | None, typer.Option(help="vlguard: a table of categories of your own.")] = None,
    level: Annotated[str | None, typer.Option(help="folder: level of pictures in no folder of a level.")] = None,
    question: Annotated[str | None, typer.Option(help="folder: what is asked about every picture.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="hf: read while loading.")] = False,
    distance: Annotated[
        int | None, typer.Option(min=0, max=8, help="Bits of 64 in which pictures that look alike differ; default: 4.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Threads that decode pictures; default: one a core.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report to this file.")] = None,
) -> None:
    """Read data once and report every fault. Exit code 1: something must be mended."""
    from rich.console import Console

    from safety_modules.records.check import DISTANCE, check_data
    from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy

    types = DEFAULT_TAXONOMY.types if new_type is None else (*DEFAULT_TAXONOMY.types, new_type)

    report = check_data(
        path,
        test,
        images,
        Taxonomy(types=types, levels=DEFAULT_TAXONOMY.levels),
        format=format,
        categories=categories,
        level=level,
        question=question,
        streaming=streaming,
        jobs=jobs,
        max_distance=DISTANCE if distance is None else distance,
    )
    Console().print(report)
    if json_file is not None:
        json_file.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if not report.ok:
        raise typer.Exit(1)
