"""What the scripts on pocket share: a command line with the package's own options and refusals, and a table's cell."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from transformers.utils import logging

from safety_modules.cli import main
from safety_modules.cli.interruption import Interruptible, InterruptibleCommand
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.io.files import write_json
from safety_modules.metrics import Estimate


def command_line(*commands: Callable[..., None]) -> typer.Typer:
    """A program of one command, or of several by their names; `run` runs it."""
    app = typer.Typer(cls=Interruptible, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    for command in commands:
        app.command(cls=InterruptibleCommand)(command)
    return app


def run(app: typer.Typer) -> None:
    """As the package's own command line runs: what it refuses is one message and exit code 1."""
    logging.set_verbosity_error()  # scripts import first, so what the environment says comes too late
    logging.disable_progress_bar()
    main(app)


def keep(results: Mapping[str, Any], json_file: Path | None) -> None:
    """Write results to the file that --json names, if any."""
    if json_file is not None:
        write_json(json_file, results)


def print_shares(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    shares: Mapping[str, str],
    console: Console | None = None,
) -> None:
    """Rows as a table: labels as they are, estimates (as dictionaries) in percent; both by key, with their heads."""
    table = terminal_table(title, *labels.values(), *shares.values())
    for row in rows:
        cells = [Estimate(**row[key]).percent() if key in row else "" for key in shares]
        table.add_row(*(str(row.get(key, "")) for key in labels), *cells)
    (console or Console()).print(table)


def spread(values: Sequence[float | None], scale: float = 100, digits: int = 1) -> str:
    """`1.5 (1.0 to 2.0)`, scaled, by default in percent; without a range for equal values, empty for none."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return ""
    mean = f"{sum(known) / len(known):.{digits}f}"
    same = min(known) == max(known)
    return mean if same else f"{mean} ({min(known):.{digits}f} to {max(known):.{digits}f})"
