"""A model that is nearly all weights, and what a rank keeps for it, counted from tensors."""

from __future__ import annotations

import json
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measure import run
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from used import peak_megabytes

from torchrelay import LightningModule, Trainer
from torchrelay.callbacks import Callback

PROCESSES = 2
WIDTH, LAYERS = 1024, 20
"""Of the perceptron: 21 million parameters."""

STEPS = 2
MEGABYTE = 1024**2


@dataclass(frozen=True)
class Kept:
    """What one rank keeps after some updates, in MiB.

    Attributes:
        state: the optimizer's own tensors, for Adam two moments.
        masters: fp32 weights that the optimizer updates in the place of the module's.
        parameters: the module's, as this rank has them.
        resident: growth of the process's resident memory since before the module was made.
        peak: the most memory that was resident.
    """

    state: float
    masters: float
    parameters: float
    resident: float
    peak: float

    @property
    def together(self) -> float:
        """All that the optimizer has."""
        return self.state + self.masters


class Network(LightningModule):
    """A perceptron that is all weights and next to no activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layers(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-4)


class Count(Callback):
    """Counts at the end of training, while all is there, and writes a report for each rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = resident_megabytes()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        state, masters, parameters = self.tensors(trainer.strategy)
        kept = Kept(
            state=megabytes(state),
            masters=megabytes(masters),
            parameters=megabytes(parameters),
            resident=resident_megabytes() - self.before,
            peak=peak_megabytes(),
        )
        Path(self.folder, f"{trainer.global_rank}.json").write_text(json.dumps(asdict(kept)))

    @abstractmethod
    def tensors(self, strategy: Any) -> tuple[Iterable[Any], Iterable[Any], Iterable[Any]]:
        """The optimizer's state, its masters, and the parameters of this rank."""


def megabytes(values: Iterable[Any]) -> float:
    """Of tensors, each storage once."""
    storages = [each.untyped_storage() for each in values if isinstance(each, torch.Tensor)]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values()) / MEGABYTE


def resident_megabytes() -> float:
    """Memory of this process that is resident, as Linux counts it."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def train(count: Count, processes: int = PROCESSES, **arguments: Any) -> None:
    """Train on one rank, or on all from there."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(2 * STEPS * processes, WIDTH))
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        max_steps=STEPS,
        callbacks=[count],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(Network(), DataLoader(data, batch_size=2))


def largest(script: str, *arguments: str) -> Kept:
    """Run a script, which trains and leaves reports in its last argument: what the rank that keeps most keeps.

    Raises:
        MeasurementError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, script, *arguments, folder])
        ranks = [Kept(**json.loads(file.read_text())) for file in Path(folder).iterdir()]
    return max(ranks, key=lambda kept: kept.together)


def parameter_count() -> int:
    """Parameters of the network."""
    return sum(p.numel() for p in Network().parameters())
