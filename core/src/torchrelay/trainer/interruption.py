"""How a fit ends before its time: signals ask for it, the ranks agree on the update, and the run is saved.

A signal reaches one process, or all of them at slightly different times, but the ranks must leave at the same update,
for saving is collective. So the signal's handler sets a flag, and the loop looks at it where an update is complete. One
process just reads it. Several reduce their flags, which costs a collective and, on a GPU, waiting for the device; they
do so about once a second, which is little beside the 30 seconds or more that schedulers grant. When the next exchange
is due must be the same on all ranks too, and their clocks differ: rank 0 turns the second into a number of updates by
the step time that it measures, and tells it in the exchange itself. The first exchange is before the first batch.

Before the first update there is nothing to save, whatever checkpoint the run began from, and no reason to wait. Until
then one process leaves at once, as on Ctrl-C: the handler raises, amid a hook or while an SDK builds. So does each of
several until that first exchange; its launcher then asks the others. Where native code keeps the handler from running,
or a first update is waited for in vain, a thread ends the process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from torchrelay.checkpoint import rng
from torchrelay.environments import preemption
from torchrelay.environments.local import LocalEnvironment
from torchrelay.launchers.failure import mark
from torchrelay.launchers.interruption import (
    GRACE,
    Interrupted,
    Request,
    die_of,
    handling,
    is_stopping,
    nothing_to_save,
    say,
)
from torchrelay.launchers.wakeup import noticing
from torchrelay.trainer import resume

if TYPE_CHECKING:
    from torchrelay.trainer.session import Session

CADENCE = 1.0
"""Seconds between two exchanges, as near as whole updates allow."""

FARTHEST = 1000
"""Updates between two exchanges, at most: steps may become slower than they were when it was measured."""


class _ValidationLeft(BaseException):
    """Validation is left for the state before it."""


class Interruption:
    """Whether this fit has been asked to end, and how it does.

    Args:
        session: the run.

    Attributes:
        request: the request that has come to this process, if one has.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.request = Request()
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        self._updates: int | None = None
        self._left = threading.Event()
        self._departure: Interrupted | None = None
        self._due_in = self._interval = 1
        self._exchanged = time.perf_counter()

    # --- signals ----------------------------------------------------------------------------------------

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals as requests inside; a handler that the program has set is called as well."""
        numbers = preemption.signals(self.session.strategy.cluster_environment)
        self._before = {number: signal.getsignal(number) for number in numbers}
        with handling(numbers, self._receive), noticing(numbers, self._see):
            try:
                yield
            finally:
                self._left.set()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # A process that was forked by a hook, such as one of a pool's, is no part of the run.
        if is_stopping() or os.getpid() != self._process:
            die_of(number)
        self.request.note(number)
        before = self._before[number]
        if callable(before):
            before(number, frame)
        if self._may_leave and self._departure is None:
            self._departure = Interrupted(number, alone=True)
            raise self._departure

    def _see(self, number: int) -> None:
        """In a thread: end this process if a signal finds nothing to save and its main thread does not leave."""
        if not (self._left.wait(GRACE) or self._has_trained or is_stopping()):
            departure = self._departure or Interrupted(number, alone=True)
            self._leave_unsaved(departure)
            mark(departure)
            self._end_process(departure.status)

    def _end_process(self, status: int) -> NoReturn:
        environment = self.session.strategy.cluster_environment
        seat = environment.seat if isinstance(environment, LocalEnvironment) else None
        if seat is not None and seat.parent_pid == os.getpid():
            shutil.rmtree(seat.report_dir, ignore_errors=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    # --- when -------------------------------------------------------------------------------------------

    @property
    def _has_trained(self) -> bool:
        """Whether there are updates to save: of this run, or of one that failed and that its strategy goes on with."""
        if self.session.strategy.recovers_from is not None:
            return True
        return self._updates is not None and self.session.progress.global_step != self._updates

    @property
    def _may_leave(self) -> bool:
        """Whether this rank may leave at once and by itself."""
        if self._left.is_set() or self._has_trained:
            return False
        return self._updates is None or self._alone

    def check(self) -> None:
        """End the run here if it was asked to; to be called by all ranks alike, where an update is complete.

        The first call is before the first batch.

        Raises:
            Interrupted: it was, and has been saved if there was anything to save.
        """
        if self._updates is None:
            self._updates = self.session.progress.global_step
        if self._alone:
            asked = self.request.number
        else:
            self._due_in -= 1
            asked = 0 if self._due_in else self._exchange()
        if asked:
            self.end(asked)

    @cached_property
    def _alone(self) -> bool:
        return self.session.strategy.world_size == 1

    def finish(self) -> None:
        """End the program, if it was asked to, though the fit is complete. Collective.

        Raises:
            Interrupted: it was; the fit has been saved.
        """
        self._due_in = 1
        self.check()
        self._left.set()

    def _exchange(self) -> int:
        """The signal that some rank has got, 0 if none; sets when to ask again. Collective."""
        now = time.perf_counter()
        each = (now - self._exchanged) / self._interval
        steps = min(FARTHEST, max(1, int(CADENCE / each)))
        mine = [self.request.number, steps if self.session.strategy.is_global_zero else 0]
        asked, steps = map(int, self.session.strategy.collectives.reduce(mine, "max"))
        self._due_in = self._interval = steps
        self._exchanged = now
        return asked

    def look_in_validation(self) -> None:
        """Leave validation if the one process there is was asked to end; several ranks end after it."""
        if self.request.number and self._alone:
            raise _ValidationLeft

    @contextmanager
    def validation(self) -> Iterator[None]:
        """Validate inside; if that is left early, the run ends as it was before.

        What validation drew from the random numbers is put back, so that the resumed run validates as this one did.
        """
        before = rng.capture() if self._alone else {}
        try:
            yield
        except _ValidationLeft:
            rng.restore(before)
            self.session.sanity_checking = False
            self.end(self.request.number)

    # --- how --------------------------------------------------------------------------------------------

    def end(self, number: int) -> NoReturn:
        """Save the run and leave it. Collective.

        Checkpointers are asked first, if the run stops inside an epoch: the checkpoint of the run names their files.

        Raises:
            Interrupted: always.
        """
        # A rank that has joined the run since knows less than rank 0 does.
        if not self.session.agree(self._has_trained):
            self._left.set()
            departure = Interrupted(number)
            self._leave_unsaved(departure)
            raise departure
        session, trainer = self.session, self.session.trainer
        name, status, saved = signal.Signals(number).name, 128 + number, ""
        if not session.options.fast_dev_run:
            if session.progress.batch:
                session.offer_checkpoint("end")
            saved = resume.save_for_restart(session)
        environment = session.strategy.cluster_environment
        command = preemption.requeue_command(environment, number) if saved else None
        if session.strategy.is_global_zero:
            where = f"epoch {trainer.current_epoch}, update {trainer.global_step}"
            hint = f' in {saved}; go on with fit(..., ckpt_path="hpc")' if saved else " nowhere"
            say(f"{name} ended the fit at {where}, which is saved{hint}")
        queued = session.agree(session.strategy.is_global_zero and command and requeue(command))
        raise Interrupted(number, 0 if queued else status)

    def leave(self, error: BaseException) -> None:
        """Take note that an exception ends the run, and tell of it if that is the handler's."""
        self._left.set()
        if error is self._departure:
            self._leave_unsaved(error)

    def _leave_unsaved(self, departure: Interrupted) -> None:
        """Tell, on rank 0, that nothing is saved, and queue the job again if that is wanted: it will begin as this one.

        The other ranks take for granted that it is queued, as they cannot ask.
        """
        session, number = self.session, departure.number
        environment = session.strategy.cluster_environment
        command = preemption.requeue_command(environment, number)
        queued = command is not None and not session.options.fast_dev_run
        if environment.global_rank == 0:
            say(nothing_to_save(number, session.job.ckpt_path))
            queued = queued and command is not None and requeue(command)
        if queued:
            departure.status = departure.code = 0


def requeue(command: tuple[str, ...]) -> bool:
    """Queue this job again; whether that worked, of which a line on stderr tells."""
    text = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        say(f"the job is not queued again, {text!r} cannot be run: {error}; submit it by hand")
        return False
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        say(f"the job is not queued again, {text!r} failed: {said}; submit it by hand")
        return False
    say(f"the job is queued again: {text}")
    return True
