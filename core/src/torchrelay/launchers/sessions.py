"""A session of its own for each worker, and Ctrl-C handed on to it, which a terminal sends to one session alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from torchrelay.launchers.interruption import die_of, handling


def may_part() -> bool:
    """Whether workers may have sessions of their own: where this process can hand Ctrl-C on to them.

    Linux divides the cores among sessions first, and only then among the threads of each (sched(7), "The autogroup
    feature"), so ranks that fill the cores must not share a session. Two on two cores took 1.25 times as long for a
    step of 3 ms over gloo. torchrun's workers have their own sessions as well.
    """
    return threading.current_thread() is threading.main_thread()


@contextmanager
def handing_on_keyboard(send: Callable[[int], None]) -> Iterator[None]:
    """Inside, hand an interruption from the keyboard on to the workers, and then do here what was done before.

    Args:
        send: sends them a signal.
    """
    before = signal.getsignal(signal.SIGINT)

    def receive(number: int, frame: FrameType | None) -> None:
        send(number)
        if callable(before):
            before(number, frame)
        else:
            die_of(number)

    with handling((signal.SIGINT,), receive):
        yield
