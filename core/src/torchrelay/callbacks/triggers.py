"""When a checkpoint is due: after epochs and validations, after weight updates, or after some time."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer


class Trigger(ABC):
    """Decides when; its answer is the same on every rank."""

    key: str = ""
    """What tells one trigger from another in the key of a callback's state; "" for the usual one."""

    def start(self, trainer: Trainer) -> None:
        """Begin to count, at the beginning of training."""

    @abstractmethod
    def due(self, trainer: Trainer, reason: str) -> bool:
        """Whether a checkpoint is due at a point that `Checkpointer.on_resumable_point` describes."""


class EveryEpochs(Trigger):
    """After every so many epochs, after each validation inside those, and where a run stops inside an epoch."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.key = "" if number == 1 else f"'every_n_epochs': {number}"

    def due(self, trainer: Trainer, reason: str) -> bool:
        """Whether it is one of those epochs, or the end."""
        if reason == "validation":
            return (trainer.current_epoch + 1) % self.number == 0
        if reason == "epoch":
            return trainer.current_epoch % self.number == 0
        return reason == "end"


class EverySteps(Trigger):
    """After every so many weight updates."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.key = f"'every_n_train_steps': {number}"
        self._periods = 0

    def start(self, trainer: Trainer) -> None:
        """Begin at the update from which a run goes on."""
        self._periods = trainer.global_step // self.number

    def due(self, trainer: Trainer, reason: str) -> bool:
        """Whether the last batch has completed the number; a batch may make several updates."""
        if reason != "step":
            return False
        before, self._periods = self._periods, trainer.global_step // self.number
        return self._periods > before


class EveryInterval(Trigger):
    """After the first weight update once so much time has gone by, on the clock of rank 0.

    Asking that clock is a collective operation, made after each update.
    """

    def __init__(self, interval: timedelta) -> None:
        self.seconds = interval.total_seconds()
        self.key = f"'train_time_interval': {self.seconds}"
        self._last = 0.0

    def start(self, trainer: Trainer) -> None:
        """Begin to count the time."""
        self._last = time.monotonic()

    def due(self, trainer: Trainer, reason: str) -> bool:
        """Whether rank 0 finds the time gone by."""
        if reason != "step":
            return False
        now = time.monotonic()
        over = bool(trainer.strategy.collectives.broadcast(now - self._last >= self.seconds))
        if over:
            self._last = now
        return over


def choose(
    every_n_train_steps: Any = None, train_time_interval: Any = None, every_n_epochs: Any = None
) -> Trigger:
    """The trigger that was asked for; every epoch if none was. 0 stands for None.

    Raises:
        ConfigurationError: several were asked for, or one is not of its kind.
    """
    _check(every_n_train_steps, train_time_interval, every_n_epochs)
    if every_n_train_steps:
        return EverySteps(every_n_train_steps)
    if train_time_interval is not None:
        return EveryInterval(train_time_interval)
    return EveryEpochs(1 if every_n_epochs is None else every_n_epochs)


def _check(steps: Any, interval: Any, epochs: Any) -> None:
    given = {
        "every_n_train_steps": steps,
        "train_time_interval": interval,
        "every_n_epochs": epochs,
    }
    named = [f"{name}={value!r}" for name, value in given.items() if value]
    if len(named) > 1:
        raise ConfigurationError(
            f"ModelCheckpoint({', '.join(named)}): one of them says when; for several, give several ModelCheckpoints"
        )
    for name, value in (("every_n_train_steps", steps), ("every_n_epochs", epochs)):
        least = 0 if name == "every_n_train_steps" or named else 1
        if value is not None and (not _is_number(value) or value < least):
            raise ConfigurationError(
                f"ModelCheckpoint({name}={value!r}): must be a whole number from 1"
            )
    if interval is not None and (not isinstance(interval, timedelta) or interval <= timedelta()):
        raise ConfigurationError(
            f"ModelCheckpoint(train_time_interval={interval!r}): must be a datetime.timedelta above zero, such as "
            "timedelta(minutes=30)"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
