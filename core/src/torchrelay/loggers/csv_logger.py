"""CSVLogger: metrics as rows of a file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from typing import Any

from torchrelay.loggers.hyperparameters import as_yaml, plain
from torchrelay.loggers.run_folder import RunFolder


class CSVLogger:
    """Writes each call's metrics as a row of `metrics.csv`, with the columns `step` and `epoch`.

    A metric that appears for the first time becomes a new column; the rows before it stay empty there. Rows are on
    the disk at once. Hyper-parameters go into `hparams.yaml` beside it.

    Args:
        save_dir: folder under which each run gets `NAME/version_N`.
        name: folder between the two; "" for none.
        version: number of the run, or the whole name of its folder, to go on in; None takes the next.
        prefix: put before each metric's name, with a `-`.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
    ) -> None:
        self._folder = RunFolder(save_dir, name, version)
        self._prefix = f"{prefix}-" if prefix else ""
        self._columns: list[str] = []
        self.hparams: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The folder between `save_dir` and the run's."""
        return self._folder.name

    @property
    def version(self) -> int | str:
        """The number of this run, or the name of its folder."""
        return self._folder.version

    @property
    def save_dir(self) -> str:
        """The folder of all runs."""
        return self._folder.save_dir

    @property
    def root_dir(self) -> str:
        """The folder of the runs of this name."""
        return self._folder.root

    @property
    def log_dir(self) -> str:
        """The folder of this run; made when first asked for."""
        return self._folder.path

    @property
    def path(self) -> str:
        """The file."""
        return os.path.join(self.log_dir, "metrics.csv")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append a row."""
        row = {
            name if name == "epoch" else f"{self._prefix}{name}": _number(value)
            for name, value in metrics.items()
        }
        path = self.path
        if not self._columns:
            self._columns = _header(path)
        new = [name for name in row if name not in self._columns]
        if new or not os.path.exists(path):
            self._columns += new
            self._rewrite(path)
        with open(path, "a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow({"step": step, **row})

    def log_hyperparams(self, params: Any) -> None:
        """Write hyper-parameters, those of a mapping or a namespace, beside those there are."""
        self.hparams |= plain(params)
        with open(os.path.join(self.log_dir, "hparams.yaml"), "w", encoding="utf-8") as file:
            file.write(as_yaml(self.hparams))

    def _rewrite(self, path: str) -> None:
        rows: list[dict[str, Any]] = []
        if os.path.exists(path):
            with open(path, newline="") as file:
                rows = list(csv.DictReader(file))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def _header(path: str) -> list[str]:
    """The columns of a file; those that every file has, if it is not there yet."""
    if not os.path.exists(path):
        return ["step", "epoch"]
    with open(path, newline="") as file:
        return next(csv.reader(file), ["step", "epoch"])


def _number(value: Any) -> Any:
    """The number in a 0-dim tensor; anything else as it is."""
    return value.item() if hasattr(value, "item") else value
