"""What a command says when it is interrupted (Ctrl-C): whether the same command goes on where it was."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

INTERRUPTED = 130
"""Exit code of a process that SIGINT ended, as shells have it."""
_RESUMABLE = "safety_modules.resumable"


def goes_on(context: typer.Context) -> None:
    """The command that runs keeps what it does: interrupted, the same command goes on."""
    context.meta[_RESUMABLE] = True


class _OneLine:
    """Ends with one line where Ctrl-C is pressed."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)  # type: ignore[misc]
        except KeyboardInterrupt:
            resumable = ctx.meta.get(_RESUMABLE)
            typer.echo(
                "\ninterrupted; " + ("the same command goes on" if resumable else "the same command begins anew"),
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None


class Interruptible(_OneLine, TyperGroup):
    """A group of commands that end with one line where Ctrl-C is pressed."""


class InterruptibleCommand(_OneLine, TyperCommand):
    """A command that ends with one line where Ctrl-C is pressed."""
