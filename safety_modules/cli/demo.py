"""`safety-modules demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    pretrained: Annotated[bool, typer.Option(help="Use the shipped adapter: one minute, no training.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the picture, the report and the adapter.")] = Path(
        "safety-demo"
    ),
) -> None:
    """The whole tour: attack, train, evaluate, toggle, save, detach, reload."""
    from safety_modules.demo import run_demo

    run_demo(out, pretrained)
