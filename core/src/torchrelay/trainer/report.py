"""The metrics of an evaluation, as a table."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


def show_results(stage: str, results: list[dict[str, float]]) -> None:
    """Print the metrics of each data loader in a column; with rich where it is installed and stdout is a terminal."""
    names = list(dict.fromkeys(name for metrics in results for name in metrics))
    if not names:
        return
    head = [f"{stage} metric", *(f"DataLoader {i}" for i in range(len(results)))]
    rows = [[name, *(_cell(metrics.get(name)) for metrics in results)] for name in names]
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        _print_rich(head, rows)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _print_rich(head: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table: Any = Table(*head)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
