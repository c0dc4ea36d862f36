"""Programs: what a plugin's tests run in processes of their own, with one result a rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchrelay.testing.foreign import LAUNCHERS

LIMIT = 100
"""Seconds that a program may take."""

_FOREIGN = (*LAUNCHERS, "TORCHRELAY_")
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment(**variables: str) -> dict[str, str]:
    """The tests' own environment, without what would make a program think that a cluster started it."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name not in _RANKS
    }
    return {**clean, "OMP_NUM_THREADS": "1", **variables}


Popen = Callable[..., "subprocess.Popen[str]"]


class Programs:
    """Programs that tests run in processes of their own, to read what each rank left behind.

    Each finds the folder of results in the variable OUT, and leaves there one file a rank, `NAME-RANK.pt`.

    Args:
        scripts: folder of the programs.
        folder: where they run, and leave their results.
        popen: starts a process: `subprocess.Popen`, or `ForkServer.popen`, which is much quicker.
    """

    def __init__(self, scripts: Path, folder: Path, popen: Popen = subprocess.Popen) -> None:
        self.scripts, self.folder, self.popen = scripts, folder, popen
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, *command: str, launcher: tuple[str, ...] = (), **variables: str
    ) -> subprocess.Popen[str]:
        """Start a program.

        Args:
            command: its name in the folder of scripts, or `-m` and a module's, and its arguments.
            launcher: what is to start it instead of a plain `python`.
            variables: of its environment.
        """
        words = list(command)
        if words[0].endswith(".py"):
            words[0] = str(self.scripts / words[0])
        process = self.popen(
            [*(launcher or (sys.executable, "-W", "error")), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.scripts if words[0] == "-m" else self.folder,
            env=environment(**{"OUT": str(self.folder), **variables}),
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        process = self.start(*command, **options)
        out, err = process.communicate(timeout=LIMIT)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def results(self, name: str, ranks: int = 2) -> list[Any]:
        """What each rank left under a name."""
        import torch

        paths = [self.folder / f"{name}-{rank}.pt" for rank in range(ranks)]
        return [torch.load(path, weights_only=False) for path in paths]

    def train(
        self, *command: str, ranks: int = 2, name: str = "result", **options: Any
    ) -> list[Any]:
        """Run a program that is to succeed, and return what each rank left."""
        done = self.run(*command, **options)
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)
        return self.results(name, ranks)

    def pids(self, ranks: int = 2, timeout: float = 60) -> list[int]:
        """The process ids that the ranks have left as `pid-RANK`, a line each, once all of them have."""
        deadline = time.monotonic() + timeout
        paths = [self.folder / f"pid-{rank}" for rank in range(ranks)]
        while not all(path.exists() and path.read_text().endswith("\n") for path in paths):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {paths} in {list(self.folder.iterdir())}")
            time.sleep(0.02)
        return [int(path.read_text()) for path in paths]

    def close(self) -> None:
        """End what still runs, with what it has started."""
        for process in self.started:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    try:
                        process.wait(10)
                    except subprocess.TimeoutExpired:
                        continue
            for pipe in filter(None, (process.stdout, process.stderr)):
                pipe.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    # A killed process whose new parent has not waited for it yet is dead too.
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(*pids: int, within: float = 10.0) -> bool:
    """Whether processes end within some seconds; those that do not are ended."""
    deadline = time.monotonic() + within
    while left := [pid for pid in pids if _alive(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.02)
    return True


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference between two states, whose names must be the same."""
    if one.keys() != other.keys():
        raise AssertionError(f"one has {sorted(one)}, the other {sorted(other)}")
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
