"""The hang watchdog: when ranks wait for one another too long, it says who is not there and ends the job.

Each process notes which collective or method it is in (`Activity`), and a thread tells that to the others over the
run's store, which works while a collective hangs. A rank calls an alarm

- when it has been in one collective for longer than the timeout, or
- when it has been in a method of the strategy for that long, in which ranks may wait for each other unseen (in backward
  for DDP's averaging), and no rank has come anywhere for that long, and they are in different places.

So neither a long step that all ranks take at once, nor a rank that downloads in `prepare_data`, calls one. A rank that
computes while the others wait for it does: the timeout has to be longer than the longest step, hook or save.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torchrelay.collectives.notice_board import BoardError, Note, NoticeBoard
from torchrelay.collectives.watching import Activity
from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.environments.local import LocalEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import ConfigurationError, WorkerError
from torchrelay.launchers.failure import Failure, leave
from torchrelay.profilers.watching import covered
from torchrelay.trainer.hang_report import Sighting, Verdict, headline, judge, render, sight

if TYPE_CHECKING:
    from torchrelay.strategies.strategy import Strategy

VARIABLE = "TORCHRELAY_HANG_TIMEOUT"

METHODS = (
    "setup",
    "load_checkpoint",
    "load_model_state",
    "load_optimizer_state",
    "model_state",
    "optimizer_state",
    "save_checkpoint",
    "training_step",
    "backward",
    "finalize_gradients",
    "clip_gradients",
    "optimizer_step",
)
"""The strategy's methods in which ranks may wait for each other, by its contract."""

SHORTEST, LONGEST = 0.1, 5.0
"""Seconds between two looks at the others: a tenth of the timeout, between these."""

GRACE = 2.0
"""Seconds that ranks have to answer an alarm, beside two of their looks."""

ALARM, VERDICT = "alarm", "verdict"


def seconds(given: Any, environ: Mapping[str, str]) -> float | None:
    """The timeout in seconds: as given to the Trainer, or else by the environment variable; None for no watchdog.

    Raises:
        ConfigurationError: it is no positive time.
    """
    text = environ.get(VARIABLE, "")
    if given is None and not text:
        return None
    name = f"{VARIABLE}={text!r}" if given is None else f"hang_timeout={given!r}"
    value: Any = given.total_seconds() if isinstance(given, timedelta) else given
    if given is None:
        with suppress(ValueError):
            value = float(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise ConfigurationError(
            f"{name} must be a positive number of seconds{'' if given is None else ', a timedelta or None'}"
        )
    return float(value)


@contextmanager
def guarding(timeout: float | None, strategy: Strategy) -> Iterator[None]:
    """Watch for hangs inside; nothing where no timeout is given, or there is one process. Ranks are connected.

    Raises:
        WorkerError: a collective, or a method in which ranks wait for each other, has failed here because another
            process is gone.
    """
    if timeout is None or strategy.world_size == 1:
        yield
        return
    activity = Activity()
    methods = {name: activity.method(name, getattr(strategy, name)) for name in METHODS}
    watchdog = Watchdog(timeout, strategy, activity)
    with ExitStack() as stack:
        stack.enter_context(covered(strategy, methods))
        stack.enter_context(covered(strategy.collectives, activity.cover(strategy.collectives)))
        watchdog.start()
        try:
            yield
        except BaseException as error:
            watchdog.finish("failed")
            watchdog.accuse_silent(error)
            raise
        else:
            watchdog.finish("left")
        finally:
            watchdog.close()


class Watchdog:
    """Watches one process of a run for all of them.

    Args:
        timeout: seconds that ranks may wait for one another.
        strategy: whose ranks they are.
        activity: where this process is.
    """

    def __init__(self, timeout: float, strategy: Strategy, activity: Activity) -> None:
        self.timeout = timeout
        self.tick = min(LONGEST, max(SHORTEST, timeout / 10))
        self.environment: ClusterEnvironment = strategy.cluster_environment
        self.rank, self.world_size = strategy.global_rank, strategy.world_size
        self.activity = activity
        self._board: NoticeBoard | None = None
        self._beats = 0
        self._heard: dict[int, tuple[int, float]] = {}
        self._state = "running"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="torchrelay-watchdog", daemon=True)

    def start(self) -> None:
        """Watch."""
        self._thread.start()

    def finish(self, state: str) -> None:
        """Watch no longer, and let the others know why: "left" or "failed"."""
        self._state = state
        self._stop.set()
        self._thread.join(self._patience)

    def close(self) -> None:
        """Let go of what the others have said."""
        if self._board is not None:
            self._board.close()

    # --- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        with suppress(BoardError):
            # A store that does not answer leaves this rank alone with what it knows itself.
            self._board = NoticeBoard(self.environment)
        self._look()
        while not self._stop.wait(self.tick):
            self._look()
        self._beat()

    def _look(self) -> None:
        self._beat()
        try:
            alarm = None if self._board is None else self._board.read(ALARM)
            if alarm is None and self._suspects():
                self._call()
            elif alarm is not None:
                self._answer(alarm)
        except BoardError:
            self._board = None

    def _beat(self) -> None:
        """Tell the others where this rank is."""
        self._beats += 1
        if self._board is None:
            return
        note = sight(self.rank, self.activity, self._state).note()
        try:
            self._board.post(f"rank-{self.rank}", {**note, "beats": self._beats})
        except BoardError:
            self._board = None

    def _suspects(self) -> bool:
        """Whether this rank has reason to call an alarm."""
        me = sight(self.rank, self.activity)
        if me.seconds <= self.timeout or me.kind not in ("collective", "method"):
            return False
        if me.kind == "collective" or self._board is None:
            return True
        return self._nobody_moves() and self._elsewhere(me)

    def _nobody_moves(self) -> bool:
        """Whether no rank that is still in the run has come to, or left, any point within the timeout."""
        now, quiet = time.monotonic(), True
        for rank, note in self._notes("rank").items():
            beats, since = self._heard.get(rank, (0, now))
            if beats != note["beats"]:
                since = now
            self._heard[rank] = (note["beats"], since)
            # A process that is gone, or stopped, counts on where it was last.
            still = note["seconds"] + now - since
            quiet = quiet and (note["state"] != "running" or still > self.timeout)
        return quiet

    def _elsewhere(self, me: Sighting) -> bool:
        """Whether some rank is not in the point that this one is in."""
        others = [Sighting.of(note) for note in self._notes("rank").values()]
        return any(each.state != "running" or each.point != me.point for each in others)

    def _notes(self, kind: str) -> dict[int, Note]:
        """The notes of that kind, by rank."""
        if self._board is None:
            return {}
        found = {rank: self._board.read(f"{kind}-{rank}") for rank in range(self.world_size)}
        return {rank: note for rank, note in found.items() if note is not None}

    # --- an alarm ---------------------------------------------------------------------------------------

    def _call(self) -> NoReturn:
        """Call an alarm, unless another rank has; say what is found, and end this process."""
        mine = sight(self.rank, self.activity, full=True)
        if self._board is None:
            self._conclude([mine], time.monotonic())
        alarm = self._board.claim(ALARM, {"rank": self.rank})
        self._answer(alarm)

    def _answer(self, alarm: Mapping[str, Any]) -> NoReturn:
        """Say where this rank is; who called the alarm says what that means, and then all end."""
        begun = time.monotonic()
        mine = sight(self.rank, self.activity, full=True)
        if self._board is None or alarm["rank"] == self.rank:
            self._conclude(self._gather(mine, begun), begun)
        self._board.post(f"answer-{self.rank}", mine.note())
        verdict = None
        # The caller may be the next to fail: nobody waits for it for ever.
        while verdict is None and time.monotonic() < begun + 2 * self._patience:
            time.sleep(SHORTEST)
            verdict = self._board.read(VERDICT)
        if verdict is None:
            self._conclude(self._gather(mine, begun), begun)
        self._end(Verdict(tuple(verdict["culprits"]), verdict["text"]), begun)

    @property
    def _patience(self) -> float:
        return GRACE + 2 * self.tick

    def _gather(self, mine: Sighting, begun: float) -> list[Sighting]:
        """What each rank says, in order of ranks, as far as they answer in time."""
        found = {self.rank: mine}
        while len(found) < self.world_size and time.monotonic() < begun + self._patience:
            time.sleep(SHORTEST)
            answers = self._notes("answer")
            ended = {r: n for r, n in self._notes("rank").items() if n["state"] != "running"}
            found |= {r: Sighting.of(note) for r, note in {**ended, **answers}.items()}
        return [found[rank] for rank in sorted(found)]

    def _conclude(self, sightings: list[Sighting], begun: float) -> NoReturn:
        verdict = judge(sightings, self.world_size, self.timeout)
        text = render(sightings, verdict, self.world_size, self.timeout)
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
        if self._board is not None:
            with suppress(BoardError):
                self._board.post(VERDICT, {"culprits": verdict.culprits, "text": verdict.text})
        self._end(verdict, begun)

    def _end(self, verdict: Verdict, begun: float) -> NoReturn:
        """End this process: the one that launched the others at once, then who was not there, then the others.

        In this order the launchers' own reports name the right rank.
        """
        seat = self._seat
        culprit = verdict.culprits[0] if verdict.culprits else self.rank
        if seat is not None and seat.parent_pid == os.getpid():
            sys.stderr.write(f"error: {headline(verdict)}\n")
            shutil.rmtree(seat.report_dir, ignore_errors=True)
        else:
            self._leave(Failure(culprit, begun, verdict.text, "Exit"))
            time.sleep(SHORTEST * 5 if self.rank in verdict.culprits else GRACE)
            self._end_launcher_that_is_stuck(seat)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _end_launcher_that_is_stuck(self, seat: Seat | None) -> None:
        """End rank 0 if it launched this process and is still there: it cannot end itself."""
        if seat is not None and seat.parent_is_rank_0 and seat.parent_pid == os.getppid():
            os.kill(seat.parent_pid, signal.SIGKILL)

    def _leave(self, failure: Failure) -> None:
        """Leave a failure for the launching process to show, if there is one and it has not gone before."""
        folder = None if self._seat is None else Path(self._seat.report_dir)
        if folder is not None and folder.is_dir():
            leave(failure, folder)

    @property
    def _seat(self) -> Seat | None:
        """This process's place among those that a launcher of torchrelay's started."""
        environment = self.environment
        return environment.seat if isinstance(environment, LocalEnvironment) else None

    # --- a process that is gone -------------------------------------------------------------------------

    def accuse_silent(self, error: BaseException) -> None:
        """After a collective has failed: see whether that was because a process went without a word.

        Raises:
            WorkerError: it was; names its rank.
        """
        begun, point = time.monotonic(), self.activity.broken
        waited = point is not None and point.title != "training_step"
        if point is None or not waited or not isinstance(error, Exception):
            return
        silent = self._silent()
        if not silent:
            return
        text = f"ended without a word while rank {self.rank} was in {point.title}"
        self._leave(Failure(silent[0], begun, text, "Exit"))
        raise WorkerError(f"rank {silent[0]} {text}", rank=silent[0]) from error

    def _silent(self) -> list[int]:
        """The ranks that were running and give no sign of life any more."""
        try:
            before = self._notes("rank")
            time.sleep(max(1.0, 3 * self.tick))
            now = self._notes("rank")
        except BoardError:
            return []
        lost: Note = {"state": "running", "beats": 0}
        latest = {rank: now.get(rank, lost) for rank in range(self.world_size) if rank != self.rank}
        return [
            rank
            for rank, note in latest.items()
            if note["state"] == "running" and note["beats"] == before.get(rank, lost)["beats"]
        ]
