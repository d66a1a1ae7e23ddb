"""`safety-modules data`."""

from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.options import grouped, writable_file
from safety_modules.cli.reading import Reading
from safety_modules.errors import ConfigError


@grouped
def check(
    path: Annotated[list[str], typer.Argument(help="Data file, folder, shards or hf:// address; several are one set.")],
    test: Annotated[list[str] | None, typer.Option(help="Test data: nothing of it may be in PATH. Repeat.")] = None,
    new_type: Annotated[
        list[str] | None, typer.Option(help="A risk type that is to be added to the usual ones; repeat.")
    ] = None,
    reading: Reading = Reading(),
    distance: Annotated[
        int | None, typer.Option(min=0, max=8, help="Bits of 64 in which pictures that look alike differ; default: 4.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Threads that decode pictures; default: one a core.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=writable_file, help="Write the whole report to this file.")
    ] = None,
) -> None:
    """Read data once and report every fault. Exit code 1: something must be mended."""
    from pydantic import ValidationError
    from rich.console import Console

    from safety_modules.io.files import write_json
    from safety_modules.records.check import DISTANCE, check_data
    from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy

    types = (*DEFAULT_TAXONOMY.types, *(new_type or ()))
    try:
        taxonomy = Taxonomy(types=types, levels=DEFAULT_TAXONOMY.levels)
    except ValidationError as error:
        raise ConfigError(
            f"--new-type refused: expected a new name of lower-case letters, digits and underscores for each, got "
            f"{', '.join(new_type or ())}. Choose others."
        ) from error
    options, test_options = reading.options(taxonomy, path, test or ())
    report = check_data(
        path,
        test,
        options,
        taxonomy,
        test_options=test_options,
        jobs=jobs,
        max_distance=DISTANCE if distance is None else distance,
    )
    Console().print(report)
    if json_file is not None:
        write_json(json_file, report.model_dump(mode="json"))
    if not report.ok:
        raise typer.Exit(1)
