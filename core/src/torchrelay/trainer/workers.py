"""The processes that load: a signal to the whole process group leaves them to the run, which ends them in its time."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import DataLoader


def opened(loader: Iterable[Any]) -> Iterator[Any]:
    """A loader's iterator.

    While this process handles SIGTERM itself, to save first, the workers of a DataLoader are deaf to it.
    """
    if not isinstance(loader, DataLoader) or not loader.num_workers or not _outlives_sigterm():
        return iter(loader)
    before, init = set(active_children()), loader.worker_init_fn
    loader.worker_init_fn = Deafened(init)
    try:
        with _holding_back_sigterm():
            return iter(loader)
    finally:
        loader.worker_init_fn = init
        _workers_of(os.getpid()).update(set(active_children()) - before)


class Deafened:
    """A loader's `worker_init_fn` that lets nothing happen on SIGTERM.

    A handler does so, as programs that the worker starts do not inherit it; an ignored or a blocked signal they would.

    Args:
        then: the `worker_init_fn` of the user, if there is one.
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then

    def __call__(self, worker_id: int) -> None:
        """Deafen this process, and then do what the user has for it to do."""
        signal.signal(signal.SIGTERM, _nothing)
        # C libraries seldom try an interrupted call again.
        signal.siginterrupt(signal.SIGTERM, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if self.then is not None:
            self.then(worker_id)


def _nothing(*_: object) -> None:
    pass


def _outlives_sigterm() -> bool:
    in_main_thread = threading.current_thread() is threading.main_thread()
    has_handler = callable(signal.getsignal(signal.SIGTERM))
    return in_main_thread and has_handler and hasattr(signal, "pthread_sigmask")


@contextmanager
def _holding_back_sigterm() -> Iterator[None]:
    """Let no SIGTERM arrive inside, nor in a process started inside before that allows it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@cache
def _workers_of(pid: int) -> weakref.WeakSet[BaseProcess]:  # noqa: ARG001 - a forked process has none of them
    """The deaf workers that a process has started, and ends at its own end if they live then.

    For such workers multiprocessing would send SIGTERM there, and wait for ever. What has an exit priority is called
    before that.
    """
    workers: weakref.WeakSet[BaseProcess] = weakref.WeakSet()
    Finalize(None, _end, args=(workers,), exitpriority=0)
    return workers


def _end(workers: Iterable[BaseProcess]) -> None:
    # torch has a handler that raises where a worker was killed.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()
