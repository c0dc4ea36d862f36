"""ModelSummary: what a module is made of, as a table before training."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer

COLUMNS = ("", "Name", "Type", "Params", "Mode")


@dataclass(frozen=True)
class Row:
    """A submodule: its dotted name, its class, its number of parameters, and "train" or "eval"."""

    name: str
    kind: str
    parameters: int
    mode: str


class ModelSummary(Callback):
    """Prints the module's parts and numbers of parameters to stderr on rank 0, before fit.

    A table of rich's where rich is installed and stderr is a terminal, plain lines otherwise. Parameters that lazy
    modules have not made yet count as none.

    Args:
        max_depth: how deep to look into modules; -1 for all of it, 0 for the totals alone.
    """

    def __init__(self, max_depth: int = 1) -> None:
        if not isinstance(max_depth, int) or max_depth < -1:
            raise ConfigurationError(
                f"ModelSummary(max_depth={max_depth!r}): must be a whole number from -1"
            )
        self.max_depth = max_depth

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table."""
        if not trainer.is_global_zero:
            return
        rows, totals = summarize(pl_module, self.max_depth), total_lines(pl_module)
        if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
            _print_rich(rows, totals)
        else:
            print("\n".join([*_plain(rows), *totals]), file=sys.stderr)


def summarize(module: nn.Module, max_depth: int = 1) -> list[Row]:
    """A row for each submodule down to a depth; -1 for all."""
    return [
        Row(name, type(part).__name__, count(part), "train" if part.training else "eval")
        for name, part in module.named_modules()
        if name and (max_depth < 0 or name.count(".") < max_depth)
    ]


def count(module: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters, all of them or those that are trained; shared ones count once."""
    return sum(
        p.numel()
        for p in module.parameters()
        if not isinstance(p, UninitializedParameter) and (p.requires_grad or not trainable)
    )


def total_lines(module: nn.Module) -> list[str]:
    """The totals: trainable, not trainable, all, and what they take in memory."""
    every, trained = count(module), count(module, trainable=True)
    size = sum(
        p.numel() * p.element_size()
        for p in module.parameters()
        if not isinstance(p, UninitializedParameter)
    )
    return [
        f"{short(trained):>8}  trainable parameters",
        f"{short(every - trained):>8}  other parameters",
        f"{short(every):>8}  parameters in all",
        f"{size / 2**20:>8.3g}  MiB of parameters",
    ]


def short(number: int) -> str:
    """A number in three digits or so: 950, 12.3 K, 7.11 B."""
    scaled: float = number
    for unit in ("", " K", " M", " B"):
        if scaled < 999.5:  # what would be rounded to 1000 has the next unit
            return f"{scaled:.3g}{unit}"
        scaled /= 1000
    return f"{scaled:.3g} T"


def _cells(rows: list[Row]) -> list[tuple[str, ...]]:
    return [(str(i), r.name, r.kind, short(r.parameters), r.mode) for i, r in enumerate(rows)]


def _plain(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    table = [COLUMNS, *_cells(rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    return [*lines, "-" * max(map(len, lines))]


def _print_rich(rows: list[Row], totals: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True)
    if rows:
        table: Any = Table(*COLUMNS)
        for cells in _cells(rows):
            table.add_row(*cells)
        console.print(table)
    console.print("\n".join(totals), highlight=False)
