"""XLALauncher: the function runs in replicas that XLA starts, one for each device, on copies of its arguments."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from torchrelay.environments import LocalEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError, WorkerError, show_user_errors_as_one_line
from torchrelay.launchers import Launcher, mark
from torchrelay.launchers.failure import earliest, exit_failure, read_reports, write_report
from torchrelay.launchers.pickling import load, save
from torchrelay.launchers.rendezvous import host_store
from torchrelay.launchers.settings import Settings
from torchrelay.launchers.supervision import compare_plugins, refuse_nested_launch, watch_parent
from torchrelay.launchers.worker import JOB, RESULT, Job
from torchrelay.plugin.registry import get_registry
from torchrelay_tpu import vendor
from torchrelay_tpu.environment import seated

StartMethod = Literal["spawn", "fork"]

POLL = 0.1
"""Seconds between looks at which processes XLA has started."""

PLACES = "places"
"""Folder with one for each process of XLA's, in which are the ranks that it is."""

_ADVICE = "define functions and classes at the top level of a module, and open files inside the module's hooks"


class XLALauncher(Launcher):
    """The function runs in replicas that XLA starts, one for each device; this process waits for them.

    Args:
        environment: told, in each replica, which rank that is.
        replicas: how many XLA will start.
        start_method: "fork" copies this process; "spawn" starts fresh interpreters, which import the main module.
        debug: let XLA explain on stderr why it compiles and runs.
    """

    name = "xla"
    returns_to_caller = True

    def __init__(
        self,
        environment: LocalEnvironment,
        replicas: int,
        start_method: StartMethod = "fork",
        *,
        debug: bool = False,
    ) -> None:
        self.environment = environment
        self.replicas = replicas
        self.start_method = start_method
        self.debug = debug

    def launch(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run `function(*args)` in every replica and return rank 0's result, its tensors on the CPU.

        Raises:
            LaunchError: this process has used a device already, or what replicas need cannot be sent.
            WorkerError: a replica failed; with its own traceback.
        """
        refuse_nested_launch()
        if self.environment.creates_processes:
            return function(*args)
        with vendor.own_variables():
            return self._launch(function, args)

    def _launch(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if vendor.is_started():
            raise LaunchError(
                "XLA has been used in this process (a tensor on 'xla', torch_xla.device(), a fit on one device), and "
                "holds the devices that launched processes need; do that inside the module's hooks, and restart"
            )
        show_user_errors_as_one_line()
        with tempfile.TemporaryDirectory(prefix="torchrelay-", ignore_cleanup_errors=True) as name:
            folder, store = Path(name), host_store()
            seat = Seat(
                rank=0,
                local_rank=0,
                world_size=self.replicas,
                local_world_size=self.replicas,
                node_rank=0,
                address=store.host,
                port=store.port,
                parent_pid=os.getpid(),
                report_dir=name,
                fingerprint=get_registry().fingerprint(),
            )
            job = Job(self.environment, function, args, Settings.capture())
            save(job, folder / JOB, _ADVICE)
            with (
                _watching_children() as children,
                _killed_on_interrupt(children),
                vendor.explaining(self.debug),
            ):
                try:
                    vendor.launch(_be_replica, (seat.to_json(),), self.start_method)
                except Exception as error:
                    raise _cause(folder, children, error) from error
            return load(folder / RESULT, device="cpu")


@contextmanager
def _watching_children() -> Iterator[list[Any]]:
    """The processes that are started meanwhile; XLA's pool does not say how they ended."""
    before = multiprocessing.active_children()
    found: list[Any] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL):
            found.extend(
                each
                for each in multiprocessing.active_children()
                if each not in before and each not in found
            )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


@contextmanager
def _killed_on_interrupt(children: list[Any]) -> Iterator[None]:
    """Let Ctrl-C end XLA's processes at once; its pool would wait until their work is done."""

    def interrupt(number: int, frame: Any) -> None:  # noqa: ARG001 - the signature of handlers
        for child in children:
            child.kill()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cause(folder: Path, children: list[Any], error: Exception) -> Exception:
    """What a replica has reported, or how its process ended; not that the pool is broken."""
    first = earliest(read_reports(folder).values())
    if first is not None:
        return first.to_error()
    if not isinstance(error, BrokenProcessPool):
        return LaunchError(f"XLA could not start the replicas: {error}")
    for child in children:
        # XLA's pool ends the others by SIGTERM.
        if child.exitcode not in (None, 0, -signal.SIGTERM):
            return exit_failure(
                _rank_in(folder, child.pid), child.exitcode, time.monotonic()
            ).to_error()
    return WorkerError("a replica ended without a word; see what it printed above", rank=0)


def _rank_in(folder: Path, process: int) -> int:
    """The last rank that a process has said to be, as those that are its threads end together; 0 before it has."""
    return max((int(each.name) for each in folder.glob(f"{PLACES}/{process}/*")), default=0)


def _say_place(folder: Path, rank: int) -> None:
    place = folder / PLACES / str(os.getpid())
    place.mkdir(parents=True, exist_ok=True)
    (place / str(rank)).touch()


def _be_replica(index: int, text: str) -> None:  # noqa: ARG001 - XLA says which one by its own functions, too
    """Be a replica, in a process or a thread of XLA's, whose failure ends the process: others wait for it unseen."""
    rank, local_rank, world_size = vendor.place()
    asked = Seat.from_json(text)
    seat = replace(asked, rank=rank, local_rank=local_rank, world_size=world_size)
    # Threads share autocast's cache, but not whether it is used; it ends whenever one of them leaves autocast, and
    # replicas would run different graphs.
    torch.set_autocast_cache_enabled(False)
    threading.Thread(target=watch_parent, args=(asked.parent_pid,), daemon=True).start()
    try:
        _say_place(Path(seat.report_dir), rank)
        if world_size != asked.world_size:
            raise LaunchError(
                f"XLA has started {world_size} replicas, and {asked.world_size} devices are on this machine; a TPU "
                "slice of several hosts has not been run"
            )
        compare_plugins(seat)
        with seated(seat):
            job: Job = load(Path(seat.report_dir) / JOB)
            job.run(seat)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the others must not wait
        mark(error)
        write_report(seat, error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
