"""TensorBoardLogger: metrics as event files that TensorBoard shows."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchrelay.errors import ConfigurationError, NotInstalledError
from torchrelay.loggers.hyperparameters import as_yaml, flat, plain
from torchrelay.loggers.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLogger:
    """Writes metrics with `torch.utils.tensorboard`; needs the extra `tensorboard`.

    Hyper-parameters are shown in TensorBoard's own table, and go into `hparams.yaml` as well.

    Args:
        save_dir: folder under which each run gets `NAME/version_N`; show them with `tensorboard --logdir SAVE_DIR`.
        name: folder between the two; "" for none.
        version: number of the run, or the whole name of its folder, to go on in; None takes the next.
        log_graph: only False; torch follows graphs with its tracer, which is deprecated and runs a module's properties.
        default_hp_metric: give runs a placeholder metric where `log_hyperparams` gets none; without any, TensorBoard
            shows no table.
        prefix: put before each metric's name, with a `-`.
        sub_dir: folder below that of the run for what is written.
        **kwargs: further arguments of `SummaryWriter`, such as `flush_secs`.

    Raises:
        NotInstalledError: tensorboard is not installed.
        ConfigurationError: `log_graph` is True.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise NotInstalledError(
                'TensorBoardLogger needs tensorboard, which is not installed: pip install "torchrelay[tensorboard]"'
            )
        if log_graph:
            raise ConfigurationError(
                "TensorBoardLogger(log_graph=True): a whole LightningModule cannot be traced; record the graph of the "
                "network in it with logger.experiment.add_graph(network, inputs)"
            )
        self._folder = RunFolder(save_dir, name, version)
        self._default_hp_metric = default_hp_metric
        self._prefix = f"{prefix}-" if prefix else ""
        self._sub_dir = [] if sub_dir is None else [os.fspath(sub_dir)]
        self._kwargs = kwargs
        self._writer: Any = None
        self.hparams: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind."""
        return {**self.__dict__, "_writer": None}

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
        """The folder that is written to; made when first asked for."""
        return os.path.join(self._folder.path, *self._sub_dir)

    @property
    def experiment(self) -> SummaryWriter:
        """The `SummaryWriter`, for what it can do beyond metrics."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            make: Any = SummaryWriter  # its methods have no annotations
            self._writer = make(self.log_dir, **self._kwargs)
        writer: SummaryWriter = self._writer
        return writer

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers; a dict of them makes a chart of several lines."""
        writer: Any = self.experiment
        for name, value in metrics.items():
            if isinstance(value, Mapping):
                writer.add_scalars(f"{self._prefix}{name}", dict(value), step)
            else:
                writer.add_scalar(f"{self._prefix}{name}", value, step)

    def log_hyperparams(self, params: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Record hyper-parameters, those of a mapping or a namespace, and metrics to compare runs by."""
        self.hparams |= plain(params)
        shown = dict(metrics or ({"hp_metric": -1.0} if self._default_hp_metric else {}))
        writer: Any = self.experiment
        if shown:
            writer.add_hparams(flat(self.hparams), shown, run_name=".")
        with open(os.path.join(self.log_dir, "hparams.yaml"), "w", encoding="utf-8") as file:
            file.write(as_yaml(self.hparams))

    def save(self) -> None:
        """Put everything on the disk."""
        if self._writer is not None:
            self._writer.flush()

    def finalize(self, status: str) -> None:
        """Put everything on the disk and close the file; what comes after opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
