"""The processes that a launcher has started, as the launching process sees them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torchrelay.launchers.failure import (
    DEPARTURE,
    LAG,
    Failure,
    earliest,
    exit_failure,
    read_reports,
)
from torchrelay.launchers.interruption import GRACE, Interrupted, announce_stop

T = TypeVar("T")

TERMINATION = 3.0
"""Seconds between the request to end (SIGTERM) and the end (SIGKILL)."""


class Process(Protocol):
    """A started process: what `subprocess.Popen` offers."""

    def wait(self) -> int:
        """Wait for its end; minus the signal's number if a signal ended it."""

    def send_signal(self, number: int) -> None:
        """Send it a signal."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Exit:
    """The end of a process.

    Args:
        status: exit status; minus the signal's number if a signal ended it.
        time: when it was noticed, on `time.monotonic()`'s clock.
        ours: whether this process ended it.
        asked: whether it was asked to end, and has saved and left as it should.
    """

    status: int
    time: float
    ours: bool
    asked: bool = False


class Crew:
    """Started processes, each watched by a thread that waits for its end.

    Args:
        processes: by global rank.
        report_dir: where they leave the reports of their failures.
    """

    def __init__(self, processes: Mapping[int, Process], report_dir: Path) -> None:
        self._processes = dict(processes)
        self._report_dir = report_dir
        self._changed = threading.Condition()
        self._stopping = threading.Lock()
        self._stopped = False
        self.exits: dict[int, Exit] = {}
        for rank, process in self._processes.items():
            threading.Thread(
                target=self._watch,
                args=(rank, process),
                name=f"torchrelay-rank-{rank}",
                daemon=True,
            ).start()

    def _watch(self, rank: int, process: Process) -> None:
        status = process.wait()
        with self._changed:
            ours = self._stopped and status in (-signal.SIGTERM, -signal.SIGKILL)
            report = self._interruptions().get(rank) if status > 0 else None
            asked = report is not None and report.status == status
            self.exits[rank] = Exit(status, time.monotonic(), ours, asked)
            self._changed.notify_all()

    @property
    def all_gone(self) -> bool:
        """Whether every process has ended."""
        return len(self.exits) == len(self._processes)

    @property
    def failed(self) -> bool:
        """Whether a process has ended badly by itself."""
        ends = list(self.exits.values())
        return any(end.status and not end.ours and not end.asked for end in ends)

    @property
    def interruption(self) -> Interrupted | None:
        """What the process of the lowest rank ended by of those that were asked to end; None if none was."""
        reports = sorted(self._interruptions().items())
        return reports[0][1].to_interruption() if reports else None

    @property
    def told(self) -> bool:
        """Whether rank 0 is among those that were asked to end, and has told the user of it."""
        return 0 in self._interruptions()

    @property
    def departure(self) -> Failure | None:
        """The first interruption of a rank by itself, which has ended; None if there is none."""
        reports = self._interruptions().items()
        return earliest(r for rank, r in reports if r.kind == DEPARTURE and rank in self.exits)

    def _interruptions(self) -> dict[int, Failure]:
        reports = read_reports(self._report_dir)
        return {rank: each for rank, each in reports.items() if each.asked}

    def send(self, number: int) -> None:
        """Send a signal to every process that has not ended."""
        for rank in self._processes.keys() - self.exits.keys():
            self._processes[rank].send_signal(number)

    def notify(self) -> None:
        """Let those who `wait_until` look again."""
        with self._changed:
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until a condition holds, which is looked at whenever a process ends.

        Args:
            condition: what to wait for.
            timeout: seconds, at most.

        Returns:
            whether it holds.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def settle(self) -> None:
        """After a failure: give the other processes the time to show theirs, then end them."""
        self.wait_until(lambda: self.failed or self.all_gone, LAG)
        self.stop()

    def follow(self, number: int = 0) -> None:
        """After a rank's departure: ask the others to leave too, as they would wait for it; then end them.

        Args:
            number: the signal to send them; 0 if they have got it already.
        """
        if number:
            self.send(number)
        self.part(GRACE + LAG)

    def part(self, patience: float = LAG) -> None:
        """After an interruption, which reaches all: let the processes end by themselves, then end them."""
        self.wait_until(lambda: self.all_gone, patience)
        self.stop()

    def stop(self) -> None:
        """End all processes and wait until they have."""
        with self._stopping:
            self._stopped = True
            announce_stop(self._report_dir)
            for end in ("terminate", "kill"):
                for rank in self._processes.keys() - self.exits.keys():
                    getattr(self._processes[rank], end)()
                if self.wait_until(lambda: self.all_gone, TERMINATION):
                    return

    def failures(self, since: float) -> list[Failure]:
        """How processes failed.

        Args:
            since: reports from before this time count only if their process has died of them; a program may
                have handled such an exception long ago.
        """
        reports = read_reports(self._report_dir)
        reports = {rank: each for rank, each in reports.items() if not each.asked}
        failures = {rank: report for rank, report in reports.items() if report.time >= since}
        for rank, end in list(self.exits.items()):
            if rank in failures or end.ours or end.asked or not end.status:
                continue
            died_of_it = rank in reports and end.status > 0
            failures[rank] = (
                reports[rank] if died_of_it else exit_failure(rank, end.status, end.time)
            )
        return list(failures.values())

    def cause(self, since: float) -> Failure | None:
        """What came first, a failure or a departure, over which others may have failed; None if neither did."""
        departure = self.departure
        return earliest([*self.failures(since), *([departure] if departure else [])])


def start_in_thread(start: Callable[[], T], until: threading.Event) -> T:
    """Start processes from a thread of their own, which lives until the event.

    Linux ties a worker's life to the thread that started it, not to the process (prctl(2),
    PR_SET_PDEATHSIG), so that thread must outlive the workers. A fork from a fresh thread also has no OpenMP
    pool, whose threads would be missing in the child.
    """
    results: list[T] = []
    errors: list[Exception] = []
    started = threading.Event()

    def run() -> None:
        try:
            results.append(start())
        except Exception as error:  # noqa: BLE001 - raised in the thread that asked
            errors.append(error)
        finally:
            started.set()
        until.wait()

    threading.Thread(target=run, name="torchrelay-launcher", daemon=True).start()
    started.wait()
    if errors:
        until.set()
        raise errors[0]
    return results[0]
