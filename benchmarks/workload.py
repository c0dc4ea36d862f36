"""What every driver trains: the same network, data, optimizer, clock, and place for the losses."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

BATCH_SIZE = 32
CLASSES = 10
LOG_EVERY = 50
"""Updates between two deliveries of the latest loss to the place where losses go."""

DDP_ARGUMENTS: dict[str, Any] = {"gradient_as_bucket_view": True}


@dataclass(frozen=True)
class Case:
    """One run of a driver.

    Attributes:
        width: width of the network's layers.
        processes: processes that train together.
        warmup: steps before the clock is read first.
        segment: steps between two readings of the clock.
        segments: segments without a logged metric, and again as many with one.
        report: the file for the results.
        started: when the command was started, in seconds as `time.time` counts them.
    """

    width: int
    processes: int
    warmup: int
    segment: int
    segments: int
    report: str
    started: float

    @classmethod
    def from_command_line(cls) -> Case:
        """The case that `measure.py` put into the program's only argument."""
        return cls(**json.loads(sys.argv[1]))

    @property
    def steps(self) -> int:
        """Steps to train; one more than are timed, because a step ends where the next begins."""
        return self.warmup + 2 * self.segments * self.segment + 1


class Clock:
    """Counts steps where every driver passes, in the network's forward, and reads the time at some.

    Attributes:
        logging: whether the training step is to log its loss; from the middle of the run on.
    """

    def __init__(self, case: Case) -> None:
        self._started = case.started
        self._segments = case.segments
        self._segment = case.segment
        self._step = 0
        self._next = 2
        self._first_timed = case.warmup + 1
        self._readings: list[float] = []
        self.first_step = 0.0
        self.logging = False

    def tick(self) -> None:
        """Count the beginning of a step."""
        self._step += 1
        if self._step == self._next:
            self._read()

    def _read(self) -> None:
        if self._step == 2:
            self.first_step = time.time() - self._started
            self._next = self._first_timed
            return
        self._readings.append(time.perf_counter())
        self.logging = len(self._readings) > self._segments
        self._next += self._segment

    def microseconds(self) -> dict[str, list[float]]:
        """Time per step in each segment, without and with a logged metric."""
        readings = zip(self._readings, self._readings[1:], strict=False)
        times = [(after - before) / self._segment * 1e6 for before, after in readings]
        return {"plain": times[: self._segments], "logged": times[self._segments :]}


class Losses:
    """The place where the losses go."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float]] = []

    def write(self, step: int, value: float) -> None:
        """Keep the loss of an update."""
        self.rows.append((step, value))


class Network(nn.Sequential):
    """A perceptron with two hidden layers."""

    def __init__(self, width: int, clock: Clock) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, CLASSES),
        )
        self.clock = clock

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock.tick()
        return super().forward(x)


class Batches(Dataset[Any]):
    """Ready-made batches in memory, again and again; the same ones on every rank."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(0)
        self._number = case.steps
        self._batches = [
            (
                torch.randn(BATCH_SIZE, case.width, generator=generator),
                torch.randint(0, CLASSES, (BATCH_SIZE,), generator=generator),
            )
            for _ in range(16)
        ]

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._batches[index % len(self._batches)]


def make_loader(case: Case) -> DataLoader[Any]:
    """The data of the run, one epoch long."""
    return DataLoader(Batches(case), batch_size=None)


def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The cheapest optimizer: it hides nothing of what a driver adds."""
    return torch.optim.SGD(parameters, lr=0.01)


def make_module(base: type, case: Case, clock: Clock) -> Any:
    """The training in the form that torchrelay and Lightning share.

    Args:
        base: the LightningModule of one of them.
        case: the run.
        clock: says when to log.
    """

    class Module(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = Network(case.width, clock)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            loss = nn.functional.cross_entropy(self.network(x), y)
            if clock.logging:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(self.parameters())

    return Module()


def report(case: Case, clock: Clock, losses: Losses) -> None:
    """Write what the run measured; for rank 0."""
    results = {
        "first_step_seconds": clock.first_step,
        "step_microseconds": clock.microseconds(),
        "peak_megabytes": peak_megabytes(),
        "losses": losses.rows,
    }
    Path(case.report).write_text(json.dumps(results))


def peak_megabytes() -> float:
    """The most memory that was resident in this process.

    Linux's VmHWM begins at zero with the program; `ru_maxrss` would include the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
