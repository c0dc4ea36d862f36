"""Tables for people: by rich where it is installed and writes to a terminal, else plain text."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A titled table; one without rows is not shown."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def show(tables: Iterable[Table]) -> None:
    """Print the tables that have rows."""
    full = [table for table in tables if table.rows]
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        _show_rich(full)
    else:
        print("\n\n".join(plain(table) for table in full))


def plain(table: Table) -> str:
    """The table as text: columns two spaces apart, nothing cut, no trailing blanks."""
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "\n".join([table.title, *body])


def _show_rich(tables: Iterable[Table]) -> None:
    import rich.console
    import rich.table
    import rich.text

    console = rich.console.Console()
    for table in tables:
        columns = [rich.table.Column(name, overflow="fold") for name in table.header]
        grid = rich.table.Table(*columns, title=table.title, title_justify="left", box=None)
        for row in table.rows:
            grid.add_row(*map(rich.text.Text, row))
        console.print(grid)
        console.print()
