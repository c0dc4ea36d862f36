"""Request: a Python program that a server is to start, read from what `subprocess` was asked for."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchrelay.environments.program import Program

# What Python, the allocators, thread pools, torch and the SDKs behind it read once, while they are loaded.
_STARTUP = (
    *("PYTHON", "LD_", "MALLOC_", "LANG", "LC_", "TZ"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"),
    *("TORCH", "ATEN_", "CUDA_", "PJRT_", "XLA_", "HABANA_", "PT_HPU_"),
)
_LATER = ("PYTHONPATH", "TORCHRELAY_", "TORCHELASTIC_", "TORCH_NCCL_", "TORCH_EXTENSIONS_DIR")

# Options of Popen that a copy cannot have.
_SPECIAL = ("preexec_fn", "pass_fds", "shell", "gid", "gids", "uid")

_PARAMETERS = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]


def startup_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those environment variables that are read while an interpreter starts or torch is imported."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_STARTUP) and not name.startswith(_LATER)
    }


@dataclass(frozen=True)
class Request:
    """A Python program to start.

    Args:
        argv: its command line, interpreter included.
        environment: its environment variables.
        directory: its working directory.
        session: whether it leads a session of its own.
        parent: process id of its parent.
        streams: the parent's descriptors that become its standard input, output and error.
        pipes: the descriptors that the parent's Popen closes when the program is started.
    """

    argv: tuple[str, ...]
    environment: dict[str, str]
    directory: str
    session: bool
    parent: int
    streams: tuple[int, int, int]
    pipes: tuple[int, ...]

    @property
    def program(self) -> Program:
        """The command line, taken apart."""
        return Program.parse(self.argv)

    @property
    def options(self) -> tuple[str, ...]:
        """The interpreter options that a copy cannot change: all but `-u`."""
        return tuple(option for option in self.program.options if option != "-u")

    @classmethod
    def of(cls, arguments: Sequence[Any]) -> Request | None:
        """What `subprocess.Popen._execute_child` is asked to start; None if a copy cannot be that.

        Args:
            arguments: its arguments, without the Popen.
        """
        given = _PARAMETERS.bind(None, *arguments).arguments
        command = given["args"]
        if isinstance(command, (str, bytes, os.PathLike)) or not _is_plain(given):
            return None
        argv = tuple(os.fsdecode(word) for word in command)
        if argv[0] != sys.executable or given["executable"] not in (None, sys.executable):
            return None
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        pipes = tuple(given[name] for name in names)
        ends = (given["p2cread"], given["c2pwrite"], given["errwrite"])
        stdin, stdout, stderr = (own if end == -1 else end for own, end in enumerate(ends))
        environment = os.environ if given["env"] is None else given["env"]
        request = cls(
            argv=argv,
            environment={os.fsdecode(k): os.fsdecode(v) for k, v in environment.items()},
            directory=os.path.abspath(os.fsdecode(given["cwd"] or os.getcwd())),
            session=bool(given["start_new_session"]),
            parent=os.getpid(),
            streams=(stdin, stdout, stderr),
            pipes=pipes,
        )
        return request if request._can_be_a_copy() else None

    def _can_be_a_copy(self) -> bool:
        program = self.program
        # Folders and archives have a way of their own to be run; a terminal changes how Python makes its streams.
        return (
            program.target[:1] in (("-m",), ("-c",)) or "".join(program.target).endswith(".py")
        ) and (
            "-i" not in program.options
            and os.path.isdir(self.directory)
            and not any(os.isatty(stream) for stream in self.streams)
            and not self._customizes_its_start()
        )

    def _customizes_its_start(self) -> bool:
        """Whether PYTHONPATH has a module that interpreters import when they start (`site`)."""
        folders = filter(None, self.environment.get("PYTHONPATH", "").split(os.pathsep))
        names = ("sitecustomize.py", "usercustomize.py")
        return any(
            os.path.exists(os.path.join(self.directory, folder, name))
            for folder in folders
            for name in names
        )


def _is_plain(given: Mapping[str, Any]) -> bool:
    return (
        given["close_fds"]
        and given["umask"] < 0
        and given.get("process_group", -1) == -1
        and not any(given[name] for name in _SPECIAL)
    )
