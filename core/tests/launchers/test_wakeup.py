"""Signals are noticed while native code keeps Python's handlers from running, and those to other processes are not."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import queue
import signal
import socket
import sys
import threading
import time

import pytest

from torchrelay.launchers.interruption import handling
from torchrelay.launchers.wakeup import noticing

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
    # of Python 3.12, where a process with threads forks
    pytest.mark.filterwarnings("ignore:.*fork\\(\\):DeprecationWarning"),
]


@pytest.fixture
def heard():
    """What was noticed."""
    return queue.Queue()


@pytest.fixture
def handled():
    """What Python's handler was called with."""
    found = []
    with handling([signal.SIGUSR1, signal.SIGTERM], lambda number, frame: found.append(number)):
        yield found


def test_a_signal_amid_native_code(heard, handled):
    """Here the code waits for a thread, which waits for the signal to be noticed: no handler has run by then."""
    seen = []

    def wait(_):
        os.kill(os.getpid(), signal.SIGUSR1)
        seen.append((heard.get(timeout=30), list(handled)))

    library = ctypes.CDLL(None)
    thread_of = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(wait)
    identity = ctypes.c_ulong()
    with noticing([signal.SIGUSR1], heard.put):
        library.pthread_create(ctypes.byref(identity), None, thread_of, None)
        library.pthread_join(identity, None)
    assert seen == [(signal.SIGUSR1, [])]
    assert handled == [signal.SIGUSR1]


def test_other_signals_are_not_noticed(heard, handled):
    with noticing([signal.SIGUSR1], heard.put):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard.get(timeout=30) == signal.SIGUSR1
    assert sorted(handled) == sorted([signal.SIGTERM, signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)
    assert heard.empty()
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_to_a_forked_process_is_that_processs_own(heard):
    def die(number, frame):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    fork = multiprocessing.get_context("fork")
    with handling([signal.SIGTERM], die), noticing([signal.SIGTERM], heard.put):
        for _ in range(20):
            process = fork.Process(target=time.sleep, args=(50,))
            process.start()
            process.terminate()
            process.join(30)
            assert process.exitcode == -signal.SIGTERM
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    assert heard.empty()


def test_it_ends_while_a_forked_process_lives_on(heard):
    fork = multiprocessing.get_context("fork")
    with noticing([signal.SIGUSR1], heard.put):
        process = fork.Process(target=time.sleep, args=(50,))
        process.start()
    process.kill()
    process.join(30)


def test_one_that_is_there_already_stays(heard, handled):
    mine, other = socket.socketpair()
    with mine, other:
        mine.setblocking(False)
        signal.set_wakeup_fd(mine.fileno())
        try:
            with noticing([signal.SIGUSR1], heard.put):
                os.kill(os.getpid(), signal.SIGUSR1)
                assert other.recv(1)[0] == signal.SIGUSR1
        finally:
            assert signal.set_wakeup_fd(-1) == mine.fileno()
    assert heard.empty()


def test_outside_the_main_thread_it_does_nothing(heard):
    seen = []

    def run():
        with noticing([signal.SIGUSR1], heard.put):
            seen.append([each.name for each in threading.enumerate()])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert "torchrelay-signals" not in seen[0]
