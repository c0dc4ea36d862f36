"""ExperimentWriter: the files of a CSVLogger's run."""

from __future__ import annotations

import csv
import os
import time
import weakref
from collections.abc import Mapping
from typing import Any, TextIO

from torchrelay.loggers.hyperparameters import as_yaml, plain

COLUMNS = ["step", "epoch", "time"]
"""The columns that every file has."""


class ExperimentWriter:
    """Writes rows into `metrics.csv`, which stays open, and hyper-parameters into `hparams.yaml`.

    The column `time` has the seconds since the first row that this process wrote, on a clock that only goes forward.
    In a file that an earlier process wrote it goes on from the time of the last row there: two neighbours with the
    same time show where one process ended and the next began.

    Args:
        log_dir: the folder, which is there.

    Attributes:
        metrics: the rows that `save` has yet to write.
        hparams: the hyper-parameters.
    """

    NAME_METRICS_FILE = "metrics.csv"
    NAME_HPARAMS_FILE = "hparams.yaml"

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir
        self.metrics_file_path = os.path.join(log_dir, self.NAME_METRICS_FILE)
        self.metrics: list[dict[str, Any]] = []
        self.hparams: dict[str, Any] = {}
        self._columns: list[str] = []
        self._file: TextIO | None = None
        self._zero: float | None = None

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row; it is on the disk after the next `save`."""
        row = {name: _number(value) for name, value in metrics.items()}
        self.metrics.append({"step": step, "time": self._now(), **row})

    def log_hparams(self, params: Any) -> None:
        """Write hyper-parameters, those of a mapping or a namespace, beside those there are."""
        self.hparams |= plain(params)
        path = os.path.join(self.log_dir, self.NAME_HPARAMS_FILE)
        with open(path, "w", encoding="utf-8") as file:
            file.write(as_yaml(self.hparams))

    def save(self) -> None:
        """Hand the rows that wait to the operating system, which keeps them if this process is killed."""
        if not self.metrics:
            return
        file = self._opened({name: None for row in self.metrics for name in row})
        writer = csv.writer(file)
        writer.writerows([row.get(name) for name in self._columns] for row in self.metrics)
        file.flush()
        self.metrics = []

    def close(self) -> None:
        """Write what waits, and close the file; what comes after opens it again."""
        self.save()
        self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _now(self) -> float:
        clock = time.perf_counter()
        if self._zero is None:
            self._zero = clock - _last_time(self.metrics_file_path)
        return round(clock - self._zero, 6)

    def _opened(self, names: Mapping[str, None]) -> TextIO:
        """The file, with columns of these names at least."""
        if self._file is None or not _is_at(self._file, self.metrics_file_path):
            self._let_go()
            self._columns = _header(self.metrics_file_path)
        missing = [name for name in (*COLUMNS, *names) if name not in self._columns]
        if missing:
            self._let_go()
            self._columns += dict.fromkeys(missing)
            _rewrite(self.metrics_file_path, self._columns)
        if self._file is None:
            self._file = open(self.metrics_file_path, "a", newline="", encoding="utf-8")  # noqa: SIM115 - stays open
            weakref.finalize(self, self._file.close)
        return self._file


def _rewrite(path: str, columns: list[str]) -> None:
    """Give a file new columns; whoever is killed meanwhile leaves the old file or the new one."""
    new = f"{path}.new"
    with open(new, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(_rows(path))
    os.replace(new, path)


def _is_at(file: TextIO, path: str) -> bool:
    """Whether an open file is still the one that a path names: another process may have put a new one there."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _rows(path: str) -> list[dict[str, Any]]:
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _header(path: str) -> list[str]:
    """The columns of a file; none if it is not there yet."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _last_time(path: str) -> float:
    """The latest time in a file; 0.0 without any."""
    return max((_seconds(row.get("time")) for row in _rows(path)), default=0.0)


def _seconds(cell: Any) -> float:
    try:
        return float(cell or 0.0)
    except ValueError:
        return 0.0


def _number(value: Any) -> Any:
    """The number in a 0-dim tensor; anything else as it is."""
    return value.item() if hasattr(value, "item") else value
