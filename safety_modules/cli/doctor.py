"""`safety-modules doctor MODEL`: does all that is promised hold on this base, with these libraries, on this machine?"""

from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.options import Adapter, Dtype, Json, Overwrite, Quantize, load_base, new_file

RECORDS = 16
"""Of the data that are looked at."""


def doctor(
    model: Annotated[
        str, typer.Argument(help="Base model (transformers' LLaVA): folder, hub id, or llava-pocket, which is shipped.")
    ],
    adapter: Adapter = None,
    data: Annotated[Path | None, typer.Option(help=f"Data of yours, of which {RECORDS} records are looked at.")] = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """Check every promise on your own model: loaded as you load it, nothing is left on it. Exit code 1: some failed."""
    from safety_modules.adapter.hub import find_adapter
    from safety_modules.backbones.bases import find_base, local_config
    from safety_modules.doctor.examine import examine, print_findings
    from safety_modules.doctor.subject import Subject
    from safety_modules.io.files import write_json
    from safety_modules.records import read_records

    new_file(json_file, overwrite)
    folder = find_base(model)
    local_config(folder)  # what costs least comes first
    found = None if adapter is None else find_adapter(adapter)
    records = [] if data is None else read_records(data)[:RECORDS]
    base, processor = load_base(folder, quantize, dtype)
    subject = Subject(base, processor, found, records, quantize)
    record = {"model": model, "adapter": adapter, "quantize": quantize, "dtype": str(base.dtype)} | examine(
        subject, lambda finding: typer.echo(f"{finding.name}: {finding.result}, {finding.seconds:.1f} s", err=True)
    )
    print_findings(record)
    if json_file is not None:
        write_json(json_file, record)
    if record["failed"]:
        raise typer.Exit(1)
