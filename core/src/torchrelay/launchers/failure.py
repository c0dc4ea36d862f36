"""What a failed process leaves behind, and which of several failures came first.

One rank that fails makes the others fail, over connections that break. The cause is therefore the earliest
failure, by `time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError, TorchrelayError, UserError, WorkerError, one_line
from torchrelay.launchers.interruption import Interrupted

LAG = 1.0
"""Seconds by which a failure may be noticed late: a process that dies closes its connections, over which others
fail, before the system tells its parent."""

INTERRUPTION = "Interruption"

DEPARTURE = "Departure"
"""An interruption of one rank by itself, while there was nothing to save."""

_MARK = "_torchrelay_first_seen"


def mark(error: BaseException) -> float:
    """Note when an exception was first seen; in a launched process also write its report.

    To be called where an exception leaves the code of a run, before anything is closed.

    Returns:
        the time of the first call for this exception, on `time.monotonic()`'s clock.
    """
    first_seen: float | None = getattr(error, _MARK, None)
    if first_seen is None:
        first_seen = time.monotonic()
        setattr(error, _MARK, first_seen)
        seat = Seat.of(os.environ)
        if seat is not None and seat.pid is not None:
            write_report(seat, error)
    return first_seen


@dataclass(frozen=True)
class Failure:
    """How a rank failed.

    Args:
        rank: global rank.
        time: when, on `time.monotonic()`'s clock.
        text: its traceback; one line for a `UserError`, or when it died without a traceback.
        kind: "LaunchError", "UserError", "Exception", "Exit" when it died without a traceback, or "Interruption" or
            "Departure" when it was asked to end and did: no failure.
        status: exit status for a process that ends over this failure.
    """

    rank: int
    time: float
    text: str
    kind: str
    status: int = 1

    @property
    def asked(self) -> bool:
        """Whether it is no failure: the process was asked to end."""
        return self.kind in (INTERRUPTION, DEPARTURE)

    def to_interruption(self) -> Interrupted:
        """What the process has ended by that was asked to end."""
        return Interrupted(int(self.text), self.status, alone=self.kind == DEPARTURE)

    def to_error(self) -> TorchrelayError:
        """The error to raise in the launching process."""
        if self.kind == "LaunchError":
            return LaunchError(f"rank {self.rank}: {self.text}")
        if self.kind == "Exception":
            message = f"rank {self.rank} failed first, and the other processes were ended"
            return WorkerError(message, rank=self.rank, report=self.text)
        return WorkerError(f"rank {self.rank} {self.text}", rank=self.rank)

    def repeats(self, error: BaseException) -> bool:
        """Whether it is the same refusal as another rank's, which all ranks come to alike."""
        return isinstance(error, UserError) and " ".join(str(error).split()) in self.text


def write_report(seat: Seat, error: BaseException) -> bool:
    """Leave a process's failure for the launching process to show.

    Returns:
        False if there is nobody to leave it for, or nothing to say of an interruption from the keyboard.
    """
    silent = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
    if silent and not isinstance(error, Interrupted):
        return False
    failure = Failure(seat.rank, getattr(error, _MARK, time.monotonic()), *_describe(error))
    if isinstance(error, Interrupted):
        kind = DEPARTURE if error.alone else INTERRUPTION
        failure = Failure(failure.rank, failure.time, str(error.number), kind, error.status)
    return leave(failure, Path(seat.report_dir))


def leave(failure: Failure, folder: Path) -> bool:
    """Put a failure into the launching process's folder; whether that worked, of which a line on stderr tells.

    Not of an interruption, though, where the folder is gone or is being removed: so is the launching process, which was
    asked to end too.
    """
    path = folder / f"rank-{failure.rank}.json"
    part = path.with_suffix(f".{os.getpid()}")
    try:
        part.write_text(json.dumps(asdict(failure)), encoding="utf-8")
        part.replace(path)
    except OSError as problem:
        if not (failure.asked and isinstance(problem, FileNotFoundError)):
            text = f"torchrelay: rank {failure.rank} cannot leave its report: {problem}"
            sys.stderr.write(f"{text}\n")
        return False
    return True


def _describe(error: BaseException) -> tuple[str, str]:
    if isinstance(error, LaunchError):
        return " ".join(str(error).split()), "LaunchError"
    if isinstance(error, UserError):
        return f"failed: {one_line(error)}", "UserError"
    return "".join(traceback.format_exception(error)), "Exception"


def read_reports(folder: Path) -> dict[int, Failure]:
    """The reports in a folder, by rank."""
    reports = (
        Failure(**json.loads(path.read_text("utf-8"))) for path in folder.glob("rank-*.json")
    )
    return {report.rank: report for report in reports}


def exit_failure(rank: int, status: int, seen: float) -> Failure:
    """The failure of a process that died without a traceback.

    Args:
        rank: global rank.
        status: its exit status; minus the signal's number if a signal ended it.
        seen: when its parent learnt of it.
    """
    # An abort may follow from another rank's failure; every other such death begins with this rank.
    happened = seen if status == -signal.SIGABRT else seen - LAG
    return Failure(rank, happened, _explain(status), "Exit", max(status, 1))


def _explain(status: int) -> str:
    if status > 0:
        return f"ended with exit status {status} and left no traceback; see what it printed above"
    number = -status
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    hint = {
        "SIGKILL": "the system does so when memory runs out (see `dmesg`), and so does whoever sends kill -9",
        "SIGSEGV": "native code crashed; PYTHONFAULTHANDLER=1 shows where",
        "SIGABRT": "native code gave up; see what it printed above",
        "SIGTERM": "somebody, or the scheduler, asked it to end",
    }.get(name, "see what it printed above")
    return f"was killed by signal {number} ({name}); {hint}"


def earliest(failures: Iterable[Failure]) -> Failure | None:
    """The failure that came first."""
    return min(failures, key=lambda failure: failure.time, default=None)
