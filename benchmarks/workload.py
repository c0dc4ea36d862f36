"""What every driver trains: the same network, data, optimizer, clock, and place for the losses."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from used import compilations, peak_megabytes

BATCH_SIZE = 32
CLASSES = 10
LOG_EVERY = 50
"""Updates between two deliveries of the latest loss to the place where losses go."""

WORKLOADS = {
    "plain": "",
    "logged": "loss logged",
    "metrics": "10 metrics logged",
    "callbacks": "3 callbacks",
    "validation": "validation each epoch",
    "accumulation": "gradients of 4 batches",
}
"""What is measured of a step, and how tables name it.

"plain" and "logged" are the two halves of one run; the others have a run of their own, in which the loss is logged.
"""

METRICS, CALLBACKS, ACCUMULATE = 10, 3, 4
VALIDATE_EVERY, VALIDATION_BATCHES = 100, 20
"""Training batches of an epoch that ends with validation, and batches of its validation."""

SCALES = torch.arange(1.0, METRICS + 1)

DDP_ARGUMENTS: dict[str, Any] = {"gradient_as_bucket_view": True}


@dataclass(frozen=True)
class Case:
    """One run of a driver.

    Attributes:
        width: width of the network's layers.
        processes: processes that train together.
        warmup: steps before the clock is read first.
        segment: steps between two readings of the clock.
        segments: segments that are timed; of "plain", as many again with the loss logged.
        workload: which of `WORKLOADS`; "plain" stands for "logged" too.
        strategy: alias of torchrelay's strategy, where one is compared with what it drives; "" elsewhere.
        accelerator: torchrelay's kind of device.
        report: the file for the results.
        started: when the command was started, in seconds as `time.time` counts them.
    """

    width: int
    processes: int
    warmup: int
    segment: int
    segments: int
    workload: str
    strategy: str
    accelerator: str
    report: str
    started: float

    @classmethod
    def from_command_line(cls) -> Case:
        """The case that `measure.py` put into the program's only argument."""
        return cls(**json.loads(sys.argv[1]))

    @property
    def steps(self) -> int:
        """Steps to train; one more than are timed, because a step ends where the next begins."""
        halves = 2 if self.workload == "plain" else 1
        return self.warmup + halves * self.segments * self.segment + 1

    @property
    def validates(self) -> bool:
        """Whether epochs are short and each ends with validation."""
        return self.workload == "validation"

    @property
    def batches(self) -> int:
        """Training batches of an epoch."""
        return VALIDATE_EVERY if self.validates else self.steps

    @property
    def epochs(self) -> int:
        """Epochs to train."""
        return -(-self.steps // self.batches)

    @property
    def accumulate(self) -> int:
        """Batches whose gradients make an update."""
        return ACCUMULATE if self.workload == "accumulation" else 1


class Clock:
    """Counts steps where every driver passes, in the network's forward, and reads the time at some.

    Attributes:
        logging: whether the training step is to log; in "plain" from the middle of the run on.
        compilations: graphs that XLA had compiled at the last reading, in "plain" the last before logging began.
    """

    def __init__(self, case: Case) -> None:
        self._started = case.started
        self._workload = case.workload
        self._segments = case.segments
        self._segment = case.segment
        self._step = 0
        self._next = 2
        self._first_timed = case.warmup + 1
        self._readings: list[float] = []
        self.first_step = 0.0
        self.compilations = 0
        self.logging = case.workload != "plain"

    def tick(self) -> None:
        """Count the beginning of a training step."""
        self._step += 1
        if self._step == self._next:
            self._read()

    def _read(self) -> None:
        if self._step == 2:
            self.first_step = time.time() - self._started
            self._next = self._first_timed
            return
        self._readings.append(time.perf_counter())
        if self._workload != "plain" or not self.logging:
            self.compilations = compilations()
        self.logging = self.logging or len(self._readings) > self._segments
        self._next += self._segment

    def microseconds(self) -> dict[str, list[float]]:
        """Time per step in each segment, by workload."""
        readings = zip(self._readings, self._readings[1:], strict=False)
        times = [(after - before) / self._segment * 1e6 for before, after in readings]
        if self._workload != "plain":
            return {self._workload: times[: self._segments]}
        halves = times[: self._segments], times[self._segments : 2 * self._segments]
        return {"plain": halves[0], "logged": halves[1]}


class Losses:
    """The place where the losses go."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float]] = []

    def write(self, step: int, value: float) -> None:
        """Keep the loss of an update."""
        self.rows.append((step, value))


class Book:
    """What a loop without a logger of its own keeps of its metrics: the latest values and the epoch's means.

    Attributes:
        latest: the latest values.
    """

    def __init__(self, case: Case) -> None:
        self._several = case.workload == "metrics"
        self._sums: dict[str, float] = {}
        self._weight = 0
        self.latest: dict[str, Any] = {}

    def note(self, loss: torch.Tensor, size: int) -> None:
        """Take in a step's values."""
        if not self._several:
            self.latest["loss"] = loss.detach()
            return
        sums, latest = self._sums, self.latest
        for name, value in metrics_of(loss).items():
            latest[name] = number = value.item()
            sums[name] = sums.get(name, 0.0) + number * size
        self._weight += size

    def means(self) -> dict[str, float]:
        """The epoch's means."""
        return {name: value / self._weight for name, value in self._sums.items()}


def metrics_of(loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Ten values that cost next to nothing; the first is the loss."""
    first, *others = (loss.detach() * SCALES).unbind()
    return {"loss": first, **{f"metric_{i}": other for i, other in enumerate(others)}}


class Watcher:
    """What one callback does: it measures how long batches take."""

    def __init__(self) -> None:
        self._began = 0.0
        self.batches = 0
        self.seconds = 0.0

    def begin(self) -> None:
        """Note the beginning of a batch."""
        self._began = time.perf_counter()

    def end(self) -> None:
        """Note the end of a batch."""
        self.batches += 1
        self.seconds += time.perf_counter() - self._began


def make_watchers(case: Case) -> list[Watcher]:
    """The watchers of a run: three, or none."""
    return [Watcher() for _ in range(CALLBACKS if case.workload == "callbacks" else 0)]


def make_callbacks(base: type, case: Case) -> list[Any]:
    """The watchers as callbacks.

    Args:
        base: the Callback of torchrelay or of Lightning.
        case: the run.
    """

    class Watching(base):  # type: ignore[misc]
        def __init__(self, watcher: Watcher) -> None:
            self.watcher = watcher

        def on_train_batch_start(
            self, trainer: Any, module: Any, batch: Any, batch_idx: int
        ) -> None:
            self.watcher.begin()

        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.watcher.end()

    return [Watching(watcher) for watcher in make_watchers(case)]


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
        if self.training:
            self.clock.tick()
        return super().forward(x)


class Batches(Dataset[Any]):
    """Ready-made batches in memory, again and again; the same ones on every rank."""

    def __init__(self, case: Case, number: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._number = number
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
    """The data of an epoch."""
    return DataLoader(Batches(case, case.batches), batch_size=None)


def make_validation_loader(case: Case) -> DataLoader[Any] | None:
    """The data of validation, where there is any."""
    return (
        DataLoader(Batches(case, VALIDATION_BATCHES), batch_size=None) if case.validates else None
    )


def train(
    case: Case,
    model: nn.Module,
    clock: Clock,
    losses: Losses,
    update: Callable[[torch.Tensor], None],
    loader: Iterable[Any] | None = None,
) -> None:
    """The plain loop around a model whose SDK computes gradients and updates in its own way.

    Args:
        case: the run.
        model: around the network.
        clock: says when to log.
        losses: where losses go.
        update: what comes after the loss of a batch.
        loader: the data of an epoch, where the SDK wraps it.
    """
    book = Book(case)
    model.train()
    for batch, (x, y) in enumerate(loader or make_loader(case), start=1):
        loss = nn.functional.cross_entropy(model(x), y)
        if clock.logging:
            book.note(loss, len(x))
        update(loss)
        if batch % LOG_EVERY == 0 and book.latest:
            losses.write(batch, float(book.latest["loss"]))


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

    several = case.workload == "metrics"

    class Module(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = Network(case.width, clock)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            loss = nn.functional.cross_entropy(self.network(x), y)
            if several:
                self.log_dict(metrics_of(loss), on_step=True, on_epoch=True)
            elif clock.logging:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(self.parameters())

    class Validated(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            self.log("val_loss", nn.functional.cross_entropy(self.network(x), y))

    return Validated() if case.validates else Module()


def latest_loss(metrics: Mapping[str, float]) -> float | None:
    """The loss among the metrics that a logger is given; with an epoch's mean too it has another name."""
    return metrics.get("loss", metrics.get("loss_step"))


def report(case: Case, clock: Clock, losses: Losses) -> None:
    """Write what the run measured; for rank 0."""
    results = {
        "first_step_seconds": clock.first_step,
        "step_microseconds": clock.microseconds(),
        "peak_megabytes": peak_megabytes(),
        "compilations": clock.compilations,
        "losses": losses.rows,
    }
    Path(case.report).write_text(json.dumps(results))
