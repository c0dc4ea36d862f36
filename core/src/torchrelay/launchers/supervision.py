"""The worker's side of a launch: it never outlives the launching process, and leaves a report when it fails."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from torchrelay.environments.seat import VARIABLE, Seat
from torchrelay.errors import LaunchError
from torchrelay.launchers.failure import mark, write_report

FINALIZATION = 3
"""Seconds that a failed worker has to end, which a broken connection or a thread could delay for ever."""

POLL = 0.5
"""Seconds between looks at the parent, on systems that do not tell of its death."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_importing_main: ContextVar[bool] = ContextVar("importing_main", default=False)


def guard_worker() -> None:
    """Tie a launched process to the one that launched it. Does nothing elsewhere, nor when it is called again.

    From here on the process ends with its parent, and an uncaught exception becomes a report, which the
    parent prints.

    Raises:
        LaunchError: the process found other plugins, or other versions, than its parent.
    """
    seat = Seat.of(os.environ)
    if seat is None or seat.pid is not None:
        return
    _end_with(seat.parent_pid)
    os.environ[VARIABLE] = seat.taken_by(os.getpid()).to_json()
    _report_uncaught(seat)
    compare_plugins(seat)


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0:
            # The parent may have died before the request.
            if os.getppid() != parent:
                os._exit(1)
            return
    if os.name == "posix":
        name = "torchrelay-parent"
        threading.Thread(target=watch_parent, args=(parent,), name=name, daemon=True).start()


def watch_parent(parent: int) -> None:
    """Wait until the process has another parent, which on POSIX means that its own has died; then end it."""
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(POLL)
    os._exit(1)


def _report_uncaught(seat: Seat) -> None:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # The parent, which is interrupted as well, tells of it.
        if issubclass(kind, KeyboardInterrupt):
            return
        mark(error)
        if not write_report(seat, error):
            sys.__excepthook__(kind, error, trace)
        _end_soon()

    sys.excepthook = hook


def _end_soon() -> None:
    # An alarm, because it also ends a process whose interpreter is being torn down.
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(FINALIZATION)


def compare_plugins(seat: Seat) -> None:
    """Compare the plugins that this process finds with those of the process that launched it.

    Raises:
        LaunchError: they are others, or other versions.
    """
    if not seat.fingerprint:
        return
    from torchrelay.plugin.registry import get_registry

    registry = get_registry()
    differences = registry.compare_fingerprints(registry.fingerprint(), seat.fingerprint)
    if differences:
        raise LaunchError(
            f"this process found other plugins than the one that launched it: {differences}; make PYTHONPATH, "
            f"TORCHRELAY_DISABLE_PLUGINS and the environment's packages the same for both"
        )


@contextmanager
def importing_main() -> Iterator[None]:
    """While a spawned process imports the main module, nothing may be launched."""
    token = _importing_main.set(True)
    try:
        yield
    finally:
        _importing_main.reset(token)


def refuse_nested_launch() -> None:
    """Refuse a launch that a spawned process meets while it imports the main module.

    Raises:
        LaunchError: says how to guard the main module.
    """
    if _importing_main.get():
        raise LaunchError(
            "spawned processes import the main module, which would start the run again in each; put the "
            'lines that start it under `if __name__ == "__main__":`'
        )
