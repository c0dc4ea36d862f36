"""CSVLogger: metrics as rows of a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from torchrelay.arguments import answering
from torchrelay.errors import ConfigurationError
from torchrelay.loggers.csv_file import ExperimentWriter
from torchrelay.loggers.folder_logger import FolderLogger, Silence, recording
from torchrelay.loggers.hyperparameters import plain


class CSVLogger(FolderLogger):
    """Writes each call's metrics as a row of `metrics.csv`, with the columns `step`, `epoch` and `time`.

    A metric that appears for the first time becomes a new column; the rows before it stay empty there. `time` is in
    seconds, see `ExperimentWriter`; a metric of that name takes its place. Hyper-parameters go into `hparams.yaml`
    beside it. `torchrelay plot LOG_DIR` draws the file.

    Args:
        save_dir: folder under which each run gets `NAME/version_N`.
        name: folder between the two; "" for none.
        version: number of the run, or the whole name of its folder, to go on in; None takes the next.
        prefix: put before each metric's name, with a `-`.
        flush_logs_every_n_steps: rows between two writes. With 1, a process that is killed loses no row; with more
            it loses those that wait, and writing costs less.

    Raises:
        ConfigurationError: `flush_logs_every_n_steps` is less than 1.
    """

    @answering
    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 1,
    ) -> None:
        if flush_logs_every_n_steps < 1:
            raise ConfigurationError(
                f"CSVLogger(flush_logs_every_n_steps={flush_logs_every_n_steps!r}): must be 1 or more"
            )
        super().__init__(save_dir, name, version, prefix)
        self._flush_every = flush_logs_every_n_steps
        self._writer: ExperimentWriter | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind."""
        return {**self.__dict__, "_writer": None}

    @property
    def path(self) -> str:
        """The file."""
        return os.path.join(self.log_dir, ExperimentWriter.NAME_METRICS_FILE)

    @property
    def experiment(self) -> ExperimentWriter:
        """What writes the files; on a rank that follows, something on which every call does nothing."""
        if self.follows:
            return cast(ExperimentWriter, Silence())
        if self._writer is None:
            self._writer = ExperimentWriter(self.log_dir)
        return self._writer

    @recording
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append a row."""
        writer = self.experiment
        named = {
            name if name == "epoch" else f"{self._prefix}{name}": value
            for name, value in metrics.items()
        }
        writer.log_metrics(named, step)
        if len(writer.metrics) >= self._flush_every:
            writer.save()

    @recording
    def log_hyperparams(self, params: Any) -> None:
        """Write hyper-parameters, those of a mapping or a namespace, beside those there are."""
        self.experiment.log_hparams({**self.hparams, **plain(params)})
        self.hparams = self.experiment.hparams

    def save(self) -> None:
        """Write the rows that wait."""
        if self._writer is not None:
            self._writer.save()

    def finalize(self, status: str) -> None:
        """Write the rows that wait, and close the file; what comes after opens it again."""
        if self._writer is not None:
            self._writer.close()
