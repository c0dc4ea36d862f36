"""Signals that come while the main thread is inside native code, where no handler of Python's runs until it returns."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress


class _Fork(threading.local):
    """What a thread has changed for a fork: the signals that it had blocked before."""

    blocked: Collection[int] | None = None


_END = b"\0"
"""What no signal's number is."""

_fork = _Fork()
# The signals that are noticed, by the file descriptor to which their numbers are written.
_noticed: dict[int, Collection[int]] = {}


@contextmanager
def noticing(numbers: Collection[int], act: Callable[[int], None]) -> Iterator[None]:
    """Call a function, in a thread of its own, with the number of each of these signals that comes inside.

    Only signals that Python handles are noticed. Does nothing outside the main thread, nor where another part of the
    program is woken by signals already, as asyncio may be.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    descriptor = writer.fileno()
    others = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    if others != -1:
        signal.set_wakeup_fd(others)
    _noticed[descriptor] = numbers
    arguments = (reader, numbers, act)
    thread = threading.Thread(target=_read, args=arguments, name="torchrelay-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        if others == -1:
            signal.set_wakeup_fd(-1)
        del _noticed[descriptor]
        # Closing would not do: forked processes have the descriptor too.
        writer.setblocking(True)
        writer.send(_END)
        thread.join()
        writer.close()
        reader.close()


def _read(reader: socket.socket, numbers: Collection[int], act: Callable[[int], None]) -> None:
    while (received := reader.recv(1)) != _END:
        if received[0] in numbers:
            act(received[0])


# A signal to a forked process is no matter of this one's, so it must not come to that process before it has let go of
# the descriptor. Python would also forget it there.


def _hold_back() -> None:
    if _noticed:
        numbers = {number for each in _noticed.values() for number in each}
        _fork.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def _let_through() -> None:
    if _fork.blocked is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _fork.blocked)
        _fork.blocked = None


def _let_go() -> None:
    with suppress(ValueError):  # by a thread that is not the main one, not even there
        descriptor = signal.set_wakeup_fd(-1)
        if descriptor != -1 and descriptor not in _noticed:
            signal.set_wakeup_fd(descriptor)
    _let_through()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_let_go)
