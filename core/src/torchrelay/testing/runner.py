"""Runs a program of the kit in a process of its own, and sees to it that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from torchrelay.testing.checks import Program
from torchrelay.testing.context import KIT_VARIABLE
from torchrelay.testing.foreign import LAUNCHERS
from torchrelay.testing.forkserver import shared_server
from torchrelay.testing.forkserver.starter import adopting_orphans
from torchrelay.testing.outcome import Outcome
from torchrelay.testing.processes import children, members, reap
from torchrelay.testing.subject import Subject

_FOREIGN = (*LAUNCHERS, "TORCHRELAY_WORKER")
_TORCH_LEAVES = ("tmp/torchinductor_",)
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run_program(program: Program, subject: Subject, folder: Path, ranks: int) -> Outcome:
    """Run a program to its end, or end it when its time is over.

    Args:
        program: what to run.
        subject: what it examines.
        folder: a new folder, for its results, its standard streams and its temporary files.
        ranks: number of processes that it will run in.
    """
    results, work, temporary = (folder / name for name in ("results", "work", "tmp"))
    for each in (results, work, temporary):
        each.mkdir(parents=True)
    command = [sys.executable, "-m", "torchrelay.testing.program", program.target]
    command += [json.dumps(dict(program.arguments)), subject.to_json(), str(results)]
    command += [str(program.timeout)]
    begun = time.monotonic()
    # Into files: a pipe would be held open by whatever outlives the program.
    with (
        open(folder / "stdout", "wb") as out,
        open(folder / "stderr", "wb") as err,
        adopting_orphans(),
    ):
        server, strangers = shared_server(), children()
        popen = subprocess.Popen if program.real_interpreter else server.popen
        process = popen(
            command,
            cwd=work,
            env=environment(subject, temporary),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(program.timeout)
        except subprocess.TimeoutExpired:
            status = None
        ended = time.monotonic()
        left = members(process.pid, strangers | server.pids)
        survivors = tuple(pid for pid in left if pid != process.pid)
        _end(process, survivors)
        reap(strangers | server.pids)
    return Outcome(
        folder=results,
        ranks=ranks,
        status=status,
        stdout=(folder / "stdout").read_text("utf-8", "replace"),
        stderr=(folder / "stderr").read_text("utf-8", "replace"),
        seconds=ended - begun,
        pid=process.pid,
        ended=ended,
        survivors=survivors,
        left_files=_left(work, temporary),
    )


def _left(*folders: Path) -> tuple[str, ...]:
    """The files and folders in folders, but for what torch itself leaves."""
    found = [path for folder in folders for path in folder.iterdir()]
    names = [f"{path.parent.name}/{path.name}" for path in found]
    return tuple(sorted(name for name in names if not name.startswith(_TORCH_LEAVES)))


def environment(subject: Subject, temporary: Path) -> dict[str, str]:
    """The kit's own environment, as a program needs it; the subject's variables replace what the kit does not set."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name not in _RANKS
    }
    path = [*subject.python_path, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "OMP_NUM_THREADS": "1",
        **clean,
        **subject.variables,
        "PYTHONPATH": os.pathsep.join(path),
        "TMPDIR": str(temporary),
        KIT_VARIABLE: str(os.getpid()),
    }


def _end(process: subprocess.Popen[bytes], survivors: Iterable[int]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in survivors:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
