"""TensorBoardLogger: metrics as event files that TensorBoard shows."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from torchrelay.arguments import answering
from torchrelay.errors import ConfigurationError, NotInstalledError
from torchrelay.loggers.folder_logger import FolderLogger, Silence, recording
from torchrelay.loggers.hyperparameters import as_yaml, flat, plain
from torchrelay.plugin.installing import install_extra

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLogger(FolderLogger):
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

    @answering
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
                f"TensorBoardLogger needs tensorboard, which is not installed: {install_extra('tensorboard')}"
            )
        if log_graph:
            raise ConfigurationError(
                "TensorBoardLogger(log_graph=True): a whole LightningModule cannot be traced; record the graph of the "
                "network in it with logger.experiment.add_graph(network, inputs)"
            )
        super().__init__(save_dir, name, version, prefix)
        self._default_hp_metric = default_hp_metric
        self._sub_dir = [] if sub_dir is None else [os.fspath(sub_dir)]
        self._kwargs = kwargs
        self._writer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind."""
        return {**self.__dict__, "_writer": None}

    @property
    def log_dir(self) -> str:
        """The folder that is written to; made when first asked for."""
        return os.path.join(super().log_dir, *self._sub_dir)

    @property
    def experiment(self) -> SummaryWriter:
        """The `SummaryWriter`; on a rank that follows, something on which every call does nothing."""
        if self.follows:
            return cast("SummaryWriter", Silence())
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            make: Any = SummaryWriter  # its methods have no annotations
            self._writer = make(self.log_dir, **self._kwargs)
        writer: SummaryWriter = self._writer
        return writer

    @recording
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers; a dict of them makes a chart of several lines."""
        writer: Any = self.experiment
        for name, value in metrics.items():
            if isinstance(value, Mapping):
                writer.add_scalars(f"{self._prefix}{name}", dict(value), step)
            else:
                writer.add_scalar(f"{self._prefix}{name}", value, step)

    @recording
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
