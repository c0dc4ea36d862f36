"""Starter: starts programs by a server, as children of this process."""

from __future__ import annotations

import atexit
import ctypes
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torchrelay.testing.forkserver.request import Request, startup_variables

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_PR_GET_CHILD_SUBREAPER = 37

_execute_child = subprocess.Popen._execute_child  # type: ignore[attr-defined]


class Starter:
    """Starts programs by a server, as children of this process.

    Args:
        connection: to the server.
        options: the interpreter options that the server runs with.
        variables: its startup variables.
        server: its process id; it is a child of this process.
    """

    def __init__(
        self,
        connection: socket.socket,
        options: Sequence[str],
        variables: Mapping[str, str],
        server: int,
    ) -> None:
        self._connection = connection
        self.server = server
        self._options = tuple(options)
        self._variables = dict(variables)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let the server end, and wait until it has."""
        # Not `close` alone: processes that this one has forked hold copies of the connection.
        self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        # Something in this process may have waited for all its children.
        with suppress(ChildProcessError):
            os.waitpid(self.server, 0)

    def start(self, popen: subprocess.Popen[Any], request: Request) -> bool:
        """Start a program for a Popen; False if it needs a server with other options or variables."""
        variables = startup_variables(request.environment)
        if request.options != self._options or variables != self._variables:
            return False
        with self._lock, adopting_orphans():
            socket.send_fds(self._connection, [pickle.dumps(request)], request.streams)
            popen.pid = int(self._connection.recv(64))
        popen._child_created = True  # type: ignore[attr-defined]
        popen._close_pipe_fds(*request.pipes)  # type: ignore[attr-defined]
        return True

    def serve_subprocess(self) -> None:
        """From now on start by the server what this process asks `subprocess` for, where a copy can be that."""
        owner = os.getpid()

        def execute_child(popen: Any, *arguments: Any) -> None:
            # A process that this one has forked is not its server's to serve.
            request = Request.of(arguments) if os.getpid() == owner else None
            if request is None or not self.start(popen, request):
                _execute_child(popen, *arguments)

        def close() -> None:
            if os.getpid() == owner:
                self.close()

        subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]
        # Registered before any of the program's, it is called after all of them.
        atexit.register(close)


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Inside, a descendant whose parent ends becomes a child of this process (prctl(2), PR_SET_CHILD_SUBREAPER).

    Does nothing on systems other than Linux, which have no such call.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value)
