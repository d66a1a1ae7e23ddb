"""How results stand in the terminal."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from safety_modules.evaluation.outcomes import CONTENT, REACTIONS, RISK_NOTE, RISKS, attack_lines


def terminal_table(title: str, *columns: str, left: int = 1, wrap: bool = True) -> Table:
    """An empty table.

    Args:
        title: above it, at the left.
        columns: their headings.
        left: so many of the first columns hold words, the others numbers.
        wrap: whether words may be broken into lines.
    """
    table = Table(title=title, title_justify="left", header_style="bold", caption_justify="left")
    for place, column in enumerate(columns):
        words = place < left
        table.add_column(column, justify="left" if words else "right", no_wrap=words and not wrap)
    return table


def attack_table(title: str, systems: Mapping[str, Any], cell: Callable[[Any], str]) -> Table | None:
    """What attacks got, a line for each system and risk; None where there were none.

    Args:
        title: above it.
        systems: by system, what `attack_lines` reads.
        cell: of a share, or of None where there is none.
    """
    lines = attack_lines(systems)
    if not lines:
        return None
    reached = "content reached the user"
    table = terminal_table(title, "system", "risk", *REACTIONS.values(), reached, left=2, wrap=False)
    for system, risk, shares in lines:
        table.add_row(system, RISKS[risk][0], *(cell(shares.get(name)) for name in (*REACTIONS, CONTENT)))
    table.caption = RISK_NOTE if any(risk == "low" for _, risk, _ in lines) else None
    return table
