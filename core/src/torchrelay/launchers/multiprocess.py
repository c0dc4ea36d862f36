"""MultiProcessingLauncher: the function runs in new processes, on copies of its arguments."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import spawn
from pathlib import Path
from typing import Any, Literal

import torch

from torchrelay.environments.local import LocalEnvironment
from torchrelay.environments.preemption import signals
from torchrelay.environments.program import Program
from torchrelay.environments.seat import Seat
from torchrelay.errors import ConfigurationError, LaunchError, show_user_errors_as_one_line
from torchrelay.launchers.crew import Crew, Process, start_in_thread
from torchrelay.launchers.interruption import Interrupted, handing_on, nothing_to_save, say
from torchrelay.launchers.launcher import Launcher
from torchrelay.launchers.pickling import load, save
from torchrelay.launchers.rendezvous import host_store
from torchrelay.launchers.sessions import handing_on_keyboard, may_part
from torchrelay.launchers.settings import Settings
from torchrelay.launchers.supervision import refuse_nested_launch
from torchrelay.launchers.threads import VARIABLE as THREADS
from torchrelay.launchers.threads import share
from torchrelay.launchers.worker import JOB, PREPARATION, RESULT, Job, forked
from torchrelay.plugin.registry import get_registry

StartMethod = Literal["spawn", "fork"]

_ADVICE = (
    "define functions and classes at the top level of a module, open files and connections inside the "
    'module\'s hooks, or take strategy="ddp" or "ddp_fork", which send nothing'
)


class MultiProcessingLauncher(Launcher):
    """The function runs in new processes, on copies of its arguments; this process waits for them.

    Args:
        environment: told, in each new process, which rank that is.
        num_processes: number of new processes.
        start_method: "spawn" starts fresh interpreters, which import the main module; what they need is
            pickled. "fork" copies this process as it is, which works in a notebook, but not after CUDA has been
            used.

    Raises:
        ConfigurationError: there is no such start method.
    """

    name = "multiprocessing"
    returns_to_caller = True

    def __init__(
        self,
        environment: LocalEnvironment,
        num_processes: int,
        start_method: StartMethod = "spawn",
    ) -> None:
        if start_method not in ("spawn", "fork"):
            raise ConfigurationError(f'start_method={start_method!r} must be "spawn" or "fork"')
        self.environment = environment
        self.num_processes = num_processes
        self.start_method = start_method

    def launch(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run `function(*args)` in every new process and return rank 0's result.

        The result comes back as a copy, its tensors on the CPU.

        Raises:
            LaunchError: the processes cannot be started from here, or what they need cannot be sent.
            WorkerError: a process failed.
            Interrupted: a signal asked the run to end, and it has.
        """
        refuse_nested_launch()
        if self.environment.creates_processes:
            return function(*args)
        start = {"spawn": self._spawn, "fork": self._fork}[self.start_method]
        if self.start_method == "fork":
            _check_fork()
        show_user_errors_as_one_line()
        with tempfile.TemporaryDirectory(prefix="torchrelay-", ignore_cleanup_errors=True) as name:
            folder, store = Path(name), host_store()
            seat = Seat(
                rank=0,
                local_rank=0,
                world_size=self.num_processes,
                local_world_size=self.num_processes,
                node_rank=0,
                address=store.host,
                port=store.port,
                parent_pid=os.getpid(),
                report_dir=name,
                fingerprint=get_registry().fingerprint(),
            )
            seats = [replace(seat, rank=r, local_rank=r) for r in range(self.num_processes)]
            job = Job(self.environment, function, args, Settings.capture())
            _attend(start(job, seats), folder, signals(self.environment))
            return load(folder / RESULT, device="cpu")

    def _spawn(self, job: Job, seats: list[Seat]) -> Callable[[], Mapping[int, Process]]:
        folder = Path(seats[0].report_dir)
        preparation = spawn.get_preparation_data("torchrelay")
        # A secret, which multiprocessing lets itself alone pickle; nothing here needs it.
        preparation.pop("authkey", None)
        (folder / PREPARATION).write_bytes(pickle.dumps(preparation))
        save(job, folder / JOB, _ADVICE)
        threads = share(len(seats))
        limit = {} if threads is None else {THREADS: str(threads)}
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from torchrelay.launchers.worker import spawned; spawned()"
        )
        options = [option for option in Program.current().options if option != "-i"]
        command = [sys.executable, *options, "-c", code]
        parted = may_part()
        return lambda: {
            seat.rank: subprocess.Popen(
                command,
                env={**os.environ, **seat.variables(), **limit},
                stdin=subprocess.DEVNULL,
                start_new_session=parted,
            )
            for seat in seats
        }

    def _fork(self, job: Job, seats: list[Seat]) -> Callable[[], Mapping[int, Process]]:
        threads, parted = share(len(seats)), may_part()
        return lambda: {seat.rank: _Forked(job, seat, threads, parted) for seat in seats}


class _Forked:
    """A forked process, with the methods of `subprocess.Popen` that a crew needs."""

    def __init__(self, job: Job, seat: Seat, threads: int | None, parted: bool) -> None:
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=forked, args=(job, seat, threads, parted))
        with warnings.catch_warnings():
            # Python 3.12 warns of every fork beside threads, and torch always has some. What such a fork could
            # break, an OpenMP pool, is avoided by forking from a fresh thread (`start_in_thread`).
            warnings.filterwarnings("ignore", r".*fork\(\)", DeprecationWarning)
            self._process.start()
        self.terminate = self._process.terminate
        self.kill = self._process.kill

    def send_signal(self, number: int) -> None:
        pid = self._process.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode or 0


def _attend(
    start: Callable[[], Mapping[int, Process]], folder: Path, numbers: Sequence[int]
) -> None:
    """Start processes and wait until all have ended well; signals that ask for an end are handed on to them.

    Raises:
        TorchrelayError: one has failed; it is the one that failed first, and the others are gone.
        Interrupted: they have ended because a signal asked them to.
    """
    over = threading.Event()
    try:
        crew = Crew(start_in_thread(start, until=over), folder)
        keyboard = handing_on_keyboard(crew.send)
        with keyboard, handing_on(numbers, crew.send, crew.stop) as request:
            try:
                crew.wait_until(lambda: bool(crew.failed or crew.all_gone or crew.departure))
            except BaseException:
                crew.part()
                raise
            _judge(crew, request.number)
    finally:
        over.set()


def _judge(crew: Crew, asked: int) -> None:
    """Raise what the processes have ended by, if it is not their work's end.

    Args:
        crew: the processes; all have ended, or one has failed.
        asked: the signal that was handed on to them; 0 if none was.
    """
    departure = crew.departure
    if departure is not None:
        # A signal that came to this process has been handed on to all of them.
        crew.follow(0 if asked else int(departure.text))
    elif crew.failed:
        crew.settle()
    cause = crew.cause(since=0.0)
    if cause is not None and not cause.asked and not (asked and cause.kind == "Exit"):
        raise cause.to_error()
    interruption = crew.interruption
    if interruption is not None:
        if not crew.told:
            say(nothing_to_save(interruption.number))
        raise interruption
    if asked and any(end.status for end in crew.exits.values()):
        say(f"{signal.Signals(asked).name} ended the run's processes before the run could be saved")
        raise Interrupted(asked)


def _check_fork() -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        raise LaunchError(f'{sys.platform} cannot fork; take strategy="ddp_spawn"')
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise LaunchError(
            "forked processes cannot use CUDA, because this process has initialised it already (a tensor or "
            "module on the GPU, or a call such as torch.cuda.get_device_properties); do that inside the module's "
            'hooks and restart, or take strategy="ddp_spawn" or "ddp"'
        )
