"""What a process of the multiprocessing launcher does."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import torch

from torchrelay.environments.local import LocalEnvironment
from torchrelay.environments.seat import VARIABLE, Seat
from torchrelay.errors import LaunchError
from torchrelay.launchers.failure import mark
from torchrelay.launchers.pickling import load, save
from torchrelay.launchers.settings import Settings
from torchrelay.launchers.supervision import guard_worker, importing_main

PREPARATION = "preparation.pickle"
JOB = "job.pt"
RESULT = "result.pt"

_RESULT_ADVICE = "return tensors, numbers, strings and containers of them"


@dataclass(frozen=True)
class Job:
    """What every process is to do.

    Args:
        environment: told which process it is in.
        function: the function.
        args: its arguments.
        settings: the launching process's. A forked process inherits them, but Python seeds `random` anew there.
    """

    environment: LocalEnvironment
    function: Callable[..., Any]
    args: tuple[Any, ...]
    settings: Settings

    def run(self, seat: Seat) -> None:
        """Do it, as one rank; rank 0 leaves the result in the folder of reports."""
        self.environment.take(seat)
        self.settings.restore()
        result = self.function(*self.args)
        if seat.rank == 0:
            save(result, Path(seat.report_dir) / RESULT, _RESULT_ADVICE, "the result")


def spawned() -> None:
    """Be a process of its own, started with nothing but its seat in the environment."""
    seat = Seat.of(os.environ)
    if seat is None:
        raise LaunchError(f"{VARIABLE} is not set; this is for processes that torchrelay spawns")
    guard_worker()
    _import_main(Path(seat.report_dir))
    try:
        job: Job = load(Path(seat.report_dir) / JOB)
    except AttributeError as error:
        raise LaunchError(
            f"a spawned process cannot find what the run uses: {error}; define it in a module, or in the program's "
            f'file outside `if __name__`; in a notebook take strategy="ddp_notebook"'
        ) from error
    _run(job, seat)


def forked(job: Job, seat: Seat, threads: int | None, parted: bool) -> None:
    """Be a copy of the launching process, in a session of its own where `parted` says so."""
    if parted:
        os.setsid()
    os.environ.update(seat.variables())
    try:
        guard_worker()
        # Whatever the parent had set, it was for one process.
        if threads is not None:
            torch.set_num_threads(threads)
        _run(job, seat)
    except (Exception, KeyboardInterrupt) as error:
        # multiprocessing would print it here, and not ask the hook.
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from error


def _run(job: Job, seat: Seat) -> None:
    try:
        job.run(seat)
    except Exception as error:
        mark(error)
        raise


def _import_main(folder: Path) -> None:
    """Import the launching process's main module, as multiprocessing does, without being a rank yet."""
    seat = os.environ.pop(VARIABLE)
    try:
        with importing_main():
            spawn.prepare(pickle.loads((folder / PREPARATION).read_bytes()))
    finally:
        os.environ[VARIABLE] = seat
