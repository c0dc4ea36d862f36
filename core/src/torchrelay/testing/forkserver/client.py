"""ForkServer: starts Python programs as copies of a process that has imported their libraries."""

from __future__ import annotations

import atexit
import functools
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from torchrelay.testing.forkserver.request import Request, startup_variables
from torchrelay.testing.forkserver.starter import Starter

PRELOAD = (
    "torch",
    "torch._dynamo",
    "torch.distributed.run",
    "torchrelay.launchers.worker",
    "torchrelay.strategies.process_group",
    "torchrelay.testing.context",
    "torchrelay.trainer.trainer",
)
"""Modules that a server imports before it starts anything; torch imports numpy where it is installed."""

VARIABLE = "TORCHRELAY_FORK_SERVER"
"""Environment variable: with the value 0 every program is started as an interpreter of its own."""


class ForkServerError(RuntimeError):
    """A server could not be started."""


class ForkServer:
    """Starts Python programs as copies of a process that has imported torch.

    There is a server process for each set of interpreter options and of variables that are read while an interpreter
    starts. It is started when the first program needs it, and ends with this process.

    Args:
        preload: modules to import beforehand. None of them may start a thread when it is imported.
    """

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        self._modules = list(preload)
        self._servers: dict[Any, Starter] = {}

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def preload(self, *modules: str) -> None:
        """Let servers that have not been started yet import further modules, such as an SDK."""
        self._modules += modules

    @property
    def pids(self) -> frozenset[int]:
        """The process ids of the servers."""
        return frozenset(starter.server for starter in self._servers.values())

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program; the arguments and the result are those of `subprocess.Popen`.

        A command that is no Python program, or asks for what a copy cannot have (`preexec_fn`, `pass_fds`, a terminal),
        is started by `subprocess.Popen` itself.

        Raises:
            ForkServerError: the server did not start; its standard error says why.
        """
        if sys.platform != "linux" or os.environ.get(VARIABLE) == "0":
            return subprocess.Popen(command, **options)
        return _Popen(self, command, **options)

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float | None = None,
        check: bool = False,
        capture_output: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program to its end; the arguments and the result are those of `subprocess.run`, without `input`.

        Raises:
            subprocess.TimeoutExpired: it had not ended after `timeout` seconds, and was ended.
            subprocess.CalledProcessError: `check`, and its exit status is not 0.
            ForkServerError: the server did not start.
        """
        if capture_output:
            options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.popen(command, **options) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if check:
            done.check_returncode()
        return done

    def close(self) -> None:
        """End the servers. Programs that they have started go on."""
        for starter in self._servers.values():
            starter.close()
        self._servers.clear()

    def start(self, popen: subprocess.Popen[Any], request: Request) -> None:
        """Start a program for a Popen, and before it the server that it needs.

        Raises:
            ForkServerError: the server did not start.
        """
        variables = startup_variables(request.environment)
        key = (request.options, tuple(sorted(variables.items())))
        if key not in self._servers:
            self._servers[key] = self._serve(request.options, variables)
        self._servers[key].start(popen, request)

    def _serve(self, options: Sequence[str], variables: dict[str, str]) -> Starter:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        others = os.environ.keys() - startup_variables(os.environ).keys()
        descriptor = theirs.fileno()
        module = "torchrelay.testing.forkserver.server"
        try:
            process = subprocess.Popen(
                [sys.executable, *options, "-m", module, str(descriptor), *self._modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # NumPy's OpenBLAS starts threads when it is imported, unless this says otherwise.
                env={
                    **{name: os.environ[name] for name in others},
                    "OPENBLAS_NUM_THREADS": "1",
                    **variables,
                },
                pass_fds=[descriptor],
                start_new_session=True,
            )
            theirs.close()
            answer = ours.recv(4096).decode()
            if answer != "ready":
                status = process.wait()
                raise ForkServerError(answer or f"it ended with status {status} while it started")
        except BaseException:
            ours.close()
            theirs.close()
            raise
        # From here on it is waited for by its id.
        process.returncode = 0
        return Starter(ours, options, variables, process.pid)


@functools.cache
def shared_server() -> ForkServer:
    """The server that the kit and the fixtures use; it ends with this process."""
    server = ForkServer()
    atexit.register(server.close)
    return server


class _Popen(subprocess.Popen[Any]):
    """A program that is started by a server where it can be."""

    def __init__(self, server: ForkServer, command: Sequence[str], **options: Any) -> None:
        self._fork_server = server
        super().__init__(command, **options)

    def _execute_child(self, *arguments: Any) -> None:
        request = Request.of(arguments)
        if request is None:
            super()._execute_child(*arguments)  # type: ignore[misc]
        else:
            self._fork_server.start(self, request)
