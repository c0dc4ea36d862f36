"""ScriptLauncher: this process becomes rank 0, and the program runs again in the other processes."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from torchrelay.environments.local import LocalEnvironment
from torchrelay.environments.program import Program, is_interactive, start_directory
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError, TorchrelayError, show_user_errors_as_one_line
from torchrelay.launchers.crew import Crew, start_in_thread
from torchrelay.launchers.failure import LAG, earliest, mark
from torchrelay.launchers.interruption import Interrupted, nothing_to_save, say
from torchrelay.launchers.launcher import Launcher
from torchrelay.launchers.rendezvous import host_store
from torchrelay.launchers.sessions import handing_on_keyboard, may_part
from torchrelay.launchers.supervision import refuse_nested_launch
from torchrelay.launchers.threads import VARIABLE as THREADS
from torchrelay.launchers.threads import limited_to, share
from torchrelay.plugin.registry import get_registry

FAREWELL = 30.0
"""Seconds that rank 0, at its end, waits for the other processes to reach theirs."""

# The processes that this program runs in, by the process id of rank 0: a forked child has none of them.
_runs: dict[int, ScriptRun] = {}


class ScriptLauncher(Launcher):
    """This process becomes rank 0; the program runs again, with the same arguments, as each other rank.

    The other processes are started by the first launch and take part in every later one, as they come to the
    same lines of the program.

    Args:
        environment: told, at a launch, that this process is rank 0.
        num_processes: number of processes, this one included.
    """

    name = "script"
    returns_to_caller = False

    def __init__(self, environment: LocalEnvironment, num_processes: int) -> None:
        self.environment = environment
        self.num_processes = num_processes

    def launch(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run `function(*args)` here, as rank 0, while the other processes come to the same call.

        Raises:
            LaunchError: there is no program to run again, or the processes that run it already do not fit.
            WorkerError: another process failed first.
        """
        refuse_nested_launch()
        if self.environment.creates_processes:
            self.environment.check(devices=self.num_processes, num_nodes=1)
            _arrive(self.environment.seat)
            return function(*args)
        run = _runs.get(os.getpid())
        if run is None:
            run = _runs[os.getpid()] = ScriptRun(self.num_processes)
        run.check(self.num_processes)
        self.environment.take(run.seat)
        try:
            with limited_to(share(self.num_processes)):
                return run.launch(function, *args)
        except BaseException:
            self.environment.release()
            raise


class ScriptRun:
    """The program in several processes: this one, rank 0, and those that it started.

    Args:
        num_processes: number of processes, this one included.

    Raises:
        LaunchError: there is no program to run again.
    """

    def __init__(self, num_processes: int) -> None:
        command, directory = command_line()
        parted = may_part()
        show_user_errors_as_one_line()
        self._reports = Path(tempfile.mkdtemp(prefix="torchrelay-"))
        self._store = host_store()
        self._over = ""
        self._launches = 0
        self.seat = Seat(
            rank=0,
            local_rank=0,
            world_size=num_processes,
            local_world_size=num_processes,
            node_rank=0,
            address=self._store.host,
            port=self._store.port,
            parent_pid=os.getpid(),
            report_dir=str(self._reports),
            fingerprint=get_registry().fingerprint(),
            parent_is_rank_0=True,
        )

        def start() -> dict[int, subprocess.Popen[bytes]]:
            return {
                rank: subprocess.Popen(
                    command,
                    cwd=directory,
                    env=_variables(replace(self.seat, rank=rank, local_rank=rank)),
                    stdin=subprocess.DEVNULL,
                    start_new_session=parted,
                )
                for rank in range(1, num_processes)
            }

        self._crew = Crew(start_in_thread(start, until=threading.Event()), self._reports)
        atexit.register(self._part)

    def check(self, num_processes: int) -> None:
        """Refuse a launch in which the processes cannot take part.

        Raises:
            LaunchError: another number of processes is wanted, or some have ended.
            WorkerError: a process has failed since the last launch.
        """
        if not self._over and self._crew.failed:
            self._over = "a rank has failed"
            self._crew.settle()
            first = earliest(self._crew.failures(since=float("inf")))
            if first is not None:
                raise first.to_error()
        running = self.seat.world_size
        if num_processes != running:
            raise LaunchError(
                f"devices={num_processes}, but this program runs in {running} processes since its first launch, "
                f"and each of them runs the whole of it; keep to {running}, or start another program"
            )
        gone = sorted(rank for rank, end in list(self._crew.exits.items()) if not end.status)
        if self._over or gone:
            why = self._over or f"rank {gone[0]} has come to the end of the program"
            raise LaunchError(_nobody_comes(why))

    def launch(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run a function as rank 0.

        Raises:
            WorkerError: another process failed first.
        """
        since = time.monotonic()
        self._launches += 1
        done = threading.Event()
        watcher = threading.Thread(
            target=self._watch, args=(done, since), name="torchrelay-crew", daemon=True
        )
        watcher.start()
        try:
            with handing_on_keyboard(self._crew.send):
                return function(*args)
        except BaseException as error:
            seen = mark(error)
            done.set()
            self._crew.notify()
            cause = self._end(error, seen, since)
            if cause is None:
                raise
            raise cause from None
        finally:
            done.set()
            self._crew.notify()
            watcher.join()

    def _watch(self, done: threading.Event, since: float) -> None:
        """End this process if another has failed and its own function does not end over it."""
        self._crew.wait_until(
            lambda: bool(
                done.is_set() or self._crew.failed or self._crew.departure or self._absent()
            )
        )
        departure = self._crew.departure
        if departure is not None and not done.is_set():
            # This rank would wait for the one that has left, and is asked as that one was.
            os.kill(os.getpid(), int(departure.text))
            self._crew.follow(int(departure.text))
        # The others' last words, then their end, which as a rule makes a collective fail here too.
        if done.wait(LAG if departure is None else FAREWELL):
            return
        self._crew.stop()
        if done.wait(LAG):
            return
        cause, absent = self._crew.cause(since), self._absent()
        if cause is not None and cause.asked:
            self._exit(cause.to_interruption(), cause.status)
        if cause is not None:
            self._exit(cause.to_error(), cause.status)
        if absent:
            self._exit(
                LaunchError(_nobody_comes(f"rank {absent[0]} has come to the end of the program"))
            )

    def _absent(self) -> list[int]:
        """The ranks that came to the end of the program before they came to the present launch."""
        ended = [rank for rank, end in sorted(self._crew.exits.items()) if not end.status]
        return [
            rank for rank in ended if not _arrival(self._reports, rank, self._launches).exists()
        ]

    def _end(self, error: BaseException, seen: float, since: float) -> BaseException | None:
        """End the run after a failure here. The error to raise instead, if another rank failed first."""
        self._over = "a rank has failed"
        if isinstance(error, Interrupted) and error.alone:
            self._crew.follow(error.number)
            return None
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self._crew.part(FAREWELL if isinstance(error, Interrupted) else LAG)
            return None
        self._crew.settle()
        first = self._crew.cause(since)
        if first is None or first.time >= seen or first.repeats(error):
            return None
        if first.asked:
            say(nothing_to_save(int(first.text)))
            return first.to_interruption()
        return first.to_error()

    def _part(self) -> None:
        """At this process's end, wait for the others'; a failure among them becomes this one's."""
        if os.getpid() != self.seat.parent_pid:
            return
        if getattr(sys, "last_value", None) is not None:
            # This process ends by an exception that Python has shown already.
            self._crew.stop()
        elif not self._over:
            in_time = self._crew.wait_until(
                lambda: self._crew.all_gone or self._crew.failed, FAREWELL
            )
            if not in_time:
                late = sorted(set(range(1, self.seat.world_size)) - self._crew.exits.keys())
                text = f"ranks {late} had not ended {FAREWELL:.0f} s after rank 0, and were ended"
                self._crew.stop()
                self._exit(LaunchError(text))
            if self._crew.failed:
                self._crew.settle()
                first = earliest(self._crew.failures(since=float("inf")))
                if first is not None:
                    self._exit(first.to_error(), first.status)
        shutil.rmtree(self._reports, ignore_errors=True)

    def _exit(self, error: TorchrelayError | Interrupted, status: int = 1) -> NoReturn:
        """Show an error and end this process at once, whatever its main thread is waiting for."""
        shutil.rmtree(self._reports, ignore_errors=True)
        sys.stdout.flush()
        if not isinstance(error, Interrupted):
            sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        os._exit(status)


# How often this process, one of those that were started, has come to a launch.
_arrivals = itertools.count(1)


def _arrive(seat: Seat | None) -> None:
    """Let rank 0 know that this rank has come to a launch, so that it is not taken for absent."""
    if seat is None:
        return
    # Where the folder is gone, so is rank 0, and with it this process in a moment.
    with suppress(FileNotFoundError):
        _arrival(Path(seat.report_dir), seat.rank, next(_arrivals)).touch()


def _arrival(folder: Path, rank: int, launch: int) -> Path:
    return folder / f"launch-{launch}-rank-{rank}"


def _nobody_comes(why: str) -> str:
    return (
        f"no launch is possible any more: {why}; every rank must come to each launch (no `if rank == 0:` around it), "
        "and after a failure the program must be started again"
    )


def command_line() -> tuple[list[str], str]:
    """The command that runs this program again, and the folder to run it in.

    Raises:
        LaunchError: there is no program: somebody types it, or it came through the standard input.
    """
    program = Program.current()
    if is_interactive() or not program.target:
        raise LaunchError(
            "the other processes would run this program again, and there is none in an interactive session "
            'or on the standard input; take strategy="ddp_notebook", or put the program into a file'
        )
    directory = start_directory(program)
    target = list(program.target)
    if len(target) == 1:
        target = [os.path.abspath(os.path.join(directory, target[0]))]
    return [sys.executable, *program.options, *target, *program.arguments], directory


def _variables(seat: Seat) -> dict[str, str]:
    threads = share(seat.world_size)
    limit = {} if threads is None else {THREADS: str(threads)}
    return {**os.environ, **seat.variables(), **limit}
