"""How a run that is asked to end does so: the exceptions by which it leaves, and who hands a signal on to whom."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torchrelay.environments.seat import Seat

PATIENCE = 120.0
"""Seconds that a launching process, asked to end, waits for those it started to save and to end.

Schedulers wait less and then kill (SLURM's KillWait and Kubernetes' grace period are 30 s unless set); this is for a
signal sent by hand.
"""

REPEAT = 2.0
"""Seconds within which a second SIGTERM counts as the first: torchrun, srun and our launchers hand on a signal that the
whole process group may have got already."""

GRACE = 3.0
"""Seconds that native code has to return, after a signal that finds nothing to save, before its process is ended."""

STOP = "stop"
"""File in the folder of reports: the launcher is ending its processes, and nothing is left to be saved."""

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(SystemExit):
    """A run was asked to end, and has ended where it can go on from; uncaught, the program ends with `code`.

    Args:
        number: the signal that asked.
        status: the program's exit status: 0 if the run has been queued again, else 128 plus the number.
        alone: whether this rank has left without the others, who may be anywhere: there was nothing to save yet.
    """

    def __init__(self, number: int, status: int | None = None, *, alone: bool = False) -> None:
        self.number = number
        self.alone = alone
        self.status = 128 + number if status is None else status
        super().__init__(self.status)


class KeyboardInterrupted(KeyboardInterrupt, SystemExit):
    """A run was ended from the keyboard; uncaught, the program ends with status 130 and without a traceback."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGINT)
        self.code = 128 + signal.SIGINT


def say(text: str) -> None:
    """Write a line on stderr."""
    sys.stderr.write(f"torchrelay: {text}\n")
    sys.stderr.flush()


def nothing_to_save(number: int, ckpt_path: str | None = None) -> str:
    """What is said of a fit that a signal ended before its first update.

    Args:
        number: the signal.
        ckpt_path: the checkpoint that the fit went on from.
    """
    text = f"{signal.Signals(number).name} ended the fit before it had made an update; nothing is saved"
    return text if ckpt_path is None else f"{text}, it went on from {ckpt_path}"


def announce_stop(folder: Path) -> None:
    """Let processes know that the signal which follows is the launcher's, and no request to save."""
    # Where the folder is gone, the processes have ended.
    with suppress(FileNotFoundError):
        (folder / STOP).touch()


def is_stopping() -> bool:
    """Whether the launcher of this process is ending it."""
    seat = Seat.of(os.environ)
    return seat is not None and (Path(seat.report_dir) / STOP).exists()


@contextmanager
def handling(numbers: Sequence[int], handler: Handler) -> Iterator[None]:
    """Handle signals inside, and afterwards as before, whatever happens.

    Leaves alone a signal that is ignored, or that something other than Python handles. Only a program's main thread
    may set handlers; inside another thread nothing is changed.
    """
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def die_of(number: int) -> None:
    """End this process by a signal, as if it had never been handled."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@dataclass
class Request:
    """A request to end that has come to this process.

    Attributes:
        number: the signal that came first; 0 while none has.
    """

    number: int = 0
    _terminated: float | None = None

    def note(self, number: int) -> None:
        """Take note of a signal; a second SIGTERM ends this process at once."""
        now = time.monotonic()
        if number == signal.SIGTERM:
            if self._terminated is not None and now - self._terminated > REPEAT:
                die_of(number)
            self._terminated = self._terminated or now
        self.number = self.number or number


@contextmanager
def handing_on(
    numbers: Sequence[int], send: Callable[[int], None], give_up: Callable[[], None]
) -> Iterator[Request]:
    """Hand signals on to the processes of a run; a second SIGTERM ends this process, and they with it.

    Args:
        numbers: the signals.
        send: sends one to the processes.
        give_up: ends the processes that have not ended `PATIENCE` seconds later.
    """
    request = Request()
    timer = threading.Timer(PATIENCE, give_up)
    timer.daemon = True

    def receive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's arguments
        if not request.number:
            timer.start()
        request.note(number)
        send(number)

    try:
        with handling(numbers, receive):
            yield request
    finally:
        timer.cancel()
