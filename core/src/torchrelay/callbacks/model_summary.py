"""ModelSummary: what a module is made of, as a table before training."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError, NotInstalledError
from torchrelay.plugin.installing import install_extra

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

    A table of rich's where rich is installed and stderr is a terminal, plain lines otherwise. Figures are those of
    this rank once the strategy has placed the module. Parameters that lazy modules have not made yet, or whose
    elements are on other ranks, count as none, and a line says how many there are; another line tells how many
    parameters the module had before a strategy that shards took it apart.

    Args:
        max_depth: how deep to look into modules; -1 for all of it, 0 prints nothing.
    """

    @answering
    def __init__(self, max_depth: int = 1) -> None:
        if not isinstance(max_depth, int) or isinstance(max_depth, bool) or max_depth < -1:
            raise ConfigurationError(
                f"{type(self).__name__}(max_depth={max_depth!r}): must be a whole number from -1"
            )
        self.max_depth = max_depth
        self._whole = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count the parameters while the module is whole."""
        self._whole = count(pl_module) if stage == "fit" else 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table."""
        if not trainer.is_global_zero or not self.max_depth:
            return
        rows = summarize(pl_module, self.max_depth)
        self.show(rows, [*total_lines(pl_module), *elsewhere_lines(pl_module, self._whole)])

    def show(self, rows: list[Row], totals: list[str]) -> None:
        """Print rows and the lines below them; override to do it otherwise."""
        if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
            print_rich(rows, totals)
        else:
            print("\n".join([*_plain(rows), *totals]), file=sys.stderr)


class RichModelSummary(ModelSummary):
    """`ModelSummary` that always prints a table of rich's.

    Args:
        max_depth: how deep to look into modules; -1 for all of it, 0 prints nothing.
        header_style: rich's style of the first line.

    Raises:
        NotInstalledError: there is no rich.
    """

    @answering
    def __init__(self, max_depth: int = 1, header_style: str = "bold") -> None:
        if importlib.util.find_spec("rich") is None:
            raise NotInstalledError(
                f"RichModelSummary needs rich, which is not installed; run: {install_extra('rich')}"
            )
        super().__init__(max_depth)
        self.header_style = header_style

    def show(self, rows: list[Row], totals: list[str]) -> None:
        """Print the table."""
        print_rich(rows, totals, self.header_style)


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


def elsewhere_lines(module: nn.Module, whole: int = 0) -> list[str]:
    """What the totals leave out: parameters without elements on this rank, and those of other ranks.

    Args:
        module: the module, as it is placed.
        whole: its number of parameters before it was.
    """
    empty = sum(isinstance(p, UninitializedParameter) or not p.numel() for p in module.parameters())
    lines = []
    if empty:
        lines.append(f"{empty:>8}  tensors that are empty: not made yet, or on other ranks")
    if count(module) < whole:
        lines.append(f"{short(whole):>8}  parameters before they were shared out among the ranks")
    return lines


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


def print_rich(rows: list[Row], totals: list[str], header_style: str = "bold") -> None:
    """Print a table and the lines below it, on stderr."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True)
    if rows:
        table: Any = Table(*COLUMNS, header_style=header_style)
        for cells in _cells(rows):
            table.add_row(*cells)
        console.print(table)
    console.print("\n".join(totals), highlight=False)
