"""Signals that come while the main thread is inside native code, where no handler of Python's runs until it returns."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_ours: set[int] = set()


@contextmanager
def noticing(act: Callable[[int], None]) -> Iterator[None]:
    """Call a function in a thread of its own, inside, with the number of each signal that Python handles.

    Does nothing outside the main thread, and where another part of the program is woken by signals already, as
    asyncio may be.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before)
    _ours.add(writer.fileno())
    thread = threading.Thread(target=_read, args=(reader, act), name="torchrelay-signals")
    thread.daemon = True
    thread.start()
    try:
        yield
    finally:
        _ours.discard(writer.fileno())
        if before == -1:
            signal.set_wakeup_fd(-1)
        # Not `close` alone: processes that were forked meanwhile, such as a loader's workers, hold copies of it.
        writer.shutdown(socket.SHUT_RDWR)
        writer.close()
        thread.join()
        reader.close()


def _read(reader: socket.socket, act: Callable[[int], None]) -> None:
    while numbers := reader.recv(64):
        for number in numbers:
            act(number)


def _forget() -> None:
    """In a forked process: a signal that comes to it is no matter of the process that it came from."""
    with suppress(ValueError):
        before = signal.set_wakeup_fd(-1)
        if before != -1 and before not in _ours:
            signal.set_wakeup_fd(before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
