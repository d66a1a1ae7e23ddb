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
    from safety_modules.demo import OURS, run_demo
    from safety_modules.io.places import check_ours, check_writable

    check_ours(out, OURS, "a demo")
    check_writable(out)

    run_demo(out, pretrained)
