"""The server: `python -m torchrelay.testing.forkserver.server DESCRIPTOR MODULE...`.

It imports modules, and forks itself for each program that it is asked to start.

Each program has a server of its own, forked before anything of the program has run, for the programs that it starts in
turn; that server ends with the program.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Sequence

from torchrelay.testing.forkserver import copy
from torchrelay.testing.forkserver.request import Request, startup_variables
from torchrelay.testing.forkserver.starter import Starter

NAME = "fork-server"
"""How the system lists a program's own server (/proc/PID/comm)."""

_MESSAGE = 1 << 20
_ADOPTION_TIMEOUT = 30.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_NAME = 15

Started = tuple[Request, list[int]]
"""A program that this process has become: what was asked for, and its standard streams."""


def main(argv: Sequence[str]) -> None:
    """Serve until the other side closes; in each process that becomes a program, run it.

    Args:
        argv: descriptor of a socket to the process that asks for programs, and the modules to import before.
    """
    descriptor, *modules = argv
    # As an interpreter starts with it, without the program's own folder and PYTHONPATH.
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [each for each in sys.path[1:] if each not in added]
    connection = socket.socket(fileno=int(descriptor))
    for name in modules:
        importlib.import_module(name)
    threads = len(os.listdir("/proc/self/task")) - 1
    if threads:
        connection.send(f"importing {', '.join(modules)} has started {threads} threads".encode())
        sys.exit(1)
    gc.collect()
    # What is here is not looked at by later collections, whose marks would copy every page of it.
    gc.freeze()
    connection.send(b"ready")
    request, streams = _serve(connection)
    if request.session:
        os.setsid()
    request, streams = _with_own_server(request, streams)
    copy.become(request, streams, path)
    copy.run(request.program)


def _serve(connection: socket.socket) -> Started:
    """Fork for each request until the other side closes; returns in the forked processes alone."""
    while True:
        data, streams, _, _ = socket.recv_fds(connection, _MESSAGE, 3)
        if not data:
            os._exit(0)
        request: Request = pickle.loads(data)
        pid = _fork_orphan()
        if pid == 0:
            connection.close()
            _wait_for_parent(request.parent)
            return request, streams
        for stream in streams:
            os.close(stream)
        connection.send(str(pid).encode())


def _fork_orphan() -> int:
    """Fork by way of a process that ends at once, so that whoever adopts orphans becomes the parent.

    Returns:
        The process id; 0 in the new process.
    """
    reader, writer = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid:
            os.write(writer, str(pid).encode())
            os._exit(0)
        os.close(reader)
        os.close(writer)
        return 0
    os.waitpid(between, 0)
    pid = int(os.read(reader, 32))
    os.close(reader)
    os.close(writer)
    return pid


def _wait_for_parent(parent: int) -> None:
    deadline = time.monotonic() + _ADOPTION_TIMEOUT
    while os.getppid() != parent:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.0002)


def _with_own_server(request: Request, streams: list[int]) -> Started:
    """Fork a server for a program. Returns in the program, and in each one that its server starts."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = os.getpid()
    server = os.fork()
    if server:
        theirs.close()
        variables = startup_variables(request.environment)
        Starter(ours, request.options, variables, server).serve_subprocess()
        return request, streams
    ours.close()
    for stream in streams:
        os.close(stream)
    # In the program's session and process group, as what it starts may stay in them; their signals are not for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NAME, NAME.encode())
    # The program may have died before the request.
    if os.getppid() != program:
        os._exit(0)
    started = _serve(theirs)
    libc.prctl(_PR_SET_NAME, b"python")
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if started[0].session:
        os.setsid()
    return started


if __name__ == "__main__":
    main(sys.argv[1:])
