"""Log: the numbers of a metrics.csv."""

from __future__ import annotations

import csv
import math
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from torchrelay.errors import ConfigurationError

EXPECTED = "expected a CSV file whose first line names its columns, one of them step or epoch, as CSVLogger writes it"


@dataclass
class Column:
    """The cells of a column that hold a number: which rows, and the numbers, NaN and infinity among them."""

    rows: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, row: int, cell: str) -> None:
        """Take a cell, unless it is empty or holds something else."""
        try:
            value = float(cell)
        except ValueError:
            return
        self.rows.append(row)
        self.values.append(value)


class Log:
    """A metrics.csv, in memory.

    Args:
        path: the file.
        name: what to call the run.

    Attributes:
        columns: each column that holds a number, by its name.
        process: for each row, which process wrote it, as far as the column `time` tells.

    Raises:
        ConfigurationError: it is no such file.
    """

    def __init__(self, path: str, name: str) -> None:
        self.path = path
        self.name = name
        names, number = [], 0
        columns: list[Column] = []
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows = csv.reader(file)
                names = next(rows, [])
                columns = [Column() for _ in names]
                if {"step", "epoch"} & set(names):
                    number = _read(rows, columns)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigurationError(
                f"{path} is no log of metrics: {EXPECTED} ({error})"
            ) from error
        if not {"step", "epoch"} & set(names):
            raise ConfigurationError(f"{path} is no log of metrics: {EXPECTED}")
        self.columns = {n: c for n, c in zip(names, columns, strict=True) if c.values}
        self._number = number
        self.process = array("q", bytes(8 * number))
        if "time" in self.columns:
            self._count_processes(self.columns["time"])

    def axis(self, name: str) -> list[float]:
        """A column with a value for every row, NaN where the cell is empty."""
        cells = [math.nan] * self._number
        if name in self.columns:
            column = self.columns[name]
            for row, value in zip(column.rows, column.values, strict=True):
                cells[row] = value
        return cells

    def _count_processes(self, time: Column) -> None:
        """Find where the next process begins, and let time go on from there if it began again from 0."""
        process, ahead, last = 0, 0.0, -math.inf
        for index, (row, value) in enumerate(zip(time.rows, time.values, strict=True)):
            if value + ahead <= last:
                process += 1
                ahead = last if value + ahead < last else ahead
            last = time.values[index] = value + ahead
            self.process[row] = process


def _read(rows: Iterator[list[str]], columns: list[Column]) -> int:
    """Fill the columns; the number of rows."""
    number = 0
    for row in rows:
        for column, cell in zip(
            columns, row, strict=False
        ):  # the last row of a process that died may be torn
            if cell:
                column.add(number, cell)
        number += 1
    return number


def names_of(paths: list[str]) -> list[str]:
    """A name for each run: the end of its folder's path that tells it apart from the others."""
    parts = [os.path.dirname(os.path.abspath(path)).split(os.sep) for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [os.path.basename(path) for path in paths]
