"""Runs in which something goes wrong on one rank, and what a process is like after several runs."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch

from torchrelay.callbacks import Callback
from torchrelay.testing.context import Context
from torchrelay.testing.machine import listening
from torchrelay.testing.models import Regression, loader

CAUSE = "the kit lets this rank fail"
OUT_OF_MEMORY = "the kit lets this rank run out of memory"
AT = 3
"""The batch at which something happens; before it, ranks have communicated."""

IN_A_STEP = ("step", "memory")
"""Places in a training step."""

TORCH_SETS = ("TORCHINDUCTOR_", "KMP_")
"""Variables that torch itself sets when parts of it are imported."""


class Failing(Regression):
    """Fails at one place, on one rank.

    Args:
        context: the program's.
        place: "setup", "step", "validation", "killed", "memory", or "end".
        rank: the rank.
        traced: whether the Python of a step runs only when it is traced; it then fails there, and uses no `batch_idx`.
    """

    def __init__(self, context: Context, place: str, rank: int, *, traced: bool = False) -> None:
        super().__init__()
        self.context, self.place, self.failing_rank = context, place, rank
        self.traced = traced

    def setup(self, stage: str) -> None:
        """Before anything is placed."""
        self.meet("setup")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Before a step, after some that went well."""
        if batch_idx == AT:
            self.meet("killed")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """A step, after some that went well; where steps are traced, the first."""
        if self.place in IN_A_STEP and (self.traced or batch_idx == AT):
            self.meet(self.place)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """A step of validation."""
        self.meet("validation")
        return super().validation_step(batch, batch_idx)

    def on_train_end(self) -> None:
        """After the last step."""
        self.meet("end")

    def meet(self, place: str) -> None:
        """Fail, if this is where."""
        if place != self.place or self.global_rank != self.failing_rank:
            return
        self.context.leave("met", self.global_rank, time.monotonic())
        if place == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if place == "memory":
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        raise ValueError(CAUSE)


class Ports(Callback):
    """Notes where the ranks of a run have met."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Leave the port of the rendezvous, and those on which this process listens."""
        environment = trainer.strategy.cluster_environment
        ports = listening(own=True) or set()
        if trainer.world_size > 1:
            ports.add(environment.main_port)
        self.context.leave("ports", trainer.global_rank, sorted(ports))


def fail(context: Context, place: str, rank: int, traced: bool) -> None:
    """A run in which one rank fails at one place."""
    model = Failing(context, place, rank, traced=traced)
    context.trainer(callbacks=Ports(context)).fit(model, loader(64), loader(16))


def again(context: Context) -> None:
    """Fit, fit again, fail, and try once more, in one process."""
    environment = dict(os.environ)
    first, second = Regression(), Regression()
    context.trainer(callbacks=Ports(context)).fit(first, loader(64))
    _leave(context, "environment_after_success", changes(environment))
    problem = _attempt(context, second)
    same = all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    _leave(context, "second", problem or ("" if same else "it ends with other weights"))
    last = context.trainer().strategy.world_size - 1
    failing = Failing(context, "end", last)
    problem = _attempt(context, failing)
    _leave(context, "failed", problem)
    _leave(context, "environment_after_failure", changes(environment))
    _leave(context, "third", _attempt(context, Regression()))


def changes(before: dict[str, str]) -> dict[str, list[str | None]]:
    """The environment variables that are other than before: name -> before and now."""
    return {
        name: [before.get(name), os.environ.get(name)]
        for name in sorted({*before, *os.environ})
        if before.get(name) != os.environ.get(name) and not name.startswith(TORCH_SETS)
    }


def _attempt(context: Context, model: Any) -> str:
    """Why a fit ends by an exception; "" if it does not."""
    try:
        context.trainer().fit(model, loader(64))
    except Exception as error:  # noqa: BLE001 - it is what the check judges
        return f"{type(error).__name__}: {error}"
    return ""


def _leave(context: Context, name: str, value: Any) -> None:
    if context.is_first:
        context.write(name, value)
