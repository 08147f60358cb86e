"""Prints tables: within the width of a terminal, and with whole lines into files and pipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.table import Table

WIDEST: Final = 10_000
"""Characters of a line that is not cut."""


def print_table(table: Table) -> None:
    """Print a table on standard output."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(markup=False)  # cells hold texts of users and plugins
    if not console.is_terminal:
        console.width = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    console.print(table)
