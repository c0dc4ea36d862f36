"""CSVLogger: metrics as rows of a file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from typing import Any


class CSVLogger:
    """Writes each call's metrics as a row of `metrics.csv`, with the columns `step` and `epoch`.

    A metric that appears for the first time becomes a new column; the rows before it stay empty there.

    Args:
        save_dir: folder under which each run gets `version_N`.
        name: folder between the two.
    """

    def __init__(self, save_dir: str | os.PathLike[str], name: str = "csv_logs") -> None:
        self.root = os.path.join(os.fspath(save_dir), name)
        self._folder = ""
        self._columns: list[str] = ["step", "epoch"]

    @property
    def log_dir(self) -> str:
        """The folder of this run; made when first asked for."""
        if not self._folder:
            version = 0
            while True:
                folder = os.path.join(self.root, f"version_{version}")
                try:
                    os.makedirs(folder)
                except FileExistsError:
                    version += 1
                    continue
                self._folder = folder
                break
        return self._folder

    @property
    def path(self) -> str:
        """The file."""
        return os.path.join(self.log_dir, "metrics.csv")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Append a row."""
        new = [name for name in metrics if name not in self._columns]
        path = self.path
        if new or not os.path.exists(path):
            self._columns += new
            self._rewrite(path)
        with open(path, "a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow({**metrics, "step": step})

    def _rewrite(self, path: str) -> None:
        rows: list[dict[str, Any]] = []
        if os.path.exists(path):
            with open(path, newline="") as file:
                rows = list(csv.DictReader(file))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
