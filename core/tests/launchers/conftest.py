from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PREAMBLE = """
import os, signal, sys, time
import torch
import torch.distributed as dist
from torch.distributed import TCPStore
from torchrelay.environments.local import LocalEnvironment
from torchrelay.launchers import MultiProcessingLauncher, ScriptLauncher, guard_worker, mark

runs = []

def connect(environment):
    store = TCPStore(environment.main_address, environment.main_port, is_master=False)
    runs.append(None)
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(str(len(runs)), store),
        rank=environment.global_rank,
        world_size=environment.world_size,
    )

def total(environment):
    connect(environment)
    value = torch.tensor([environment.global_rank + 1.0])
    dist.all_reduce(value)
    dist.destroy_process_group()
    return value.item()

def launch(function, n=2):
    guard_worker()
    environment = LocalEnvironment()
    return ScriptLauncher(environment, n).launch(function, environment)
"""


class Program:
    """A program of the test's, run by a Python of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "program.py"
        self.started: list[subprocess.Popen[str]] = []

    def write(self, source: str) -> None:
        self.path.write_text(PREAMBLE + textwrap.dedent(source))

    def start(
        self, *args: str, command: tuple[str, ...] = (), **variables: str
    ) -> subprocess.Popen[str]:
        environ = {"OMP_NUM_THREADS": "1", **os.environ, **variables}
        process = subprocess.Popen(
            [sys.executable, *(command or (str(self.path),)), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={name: value for name, value in environ.items() if value},
        )
        self.started.append(process)
        return process

    def run(self, source: str, *args: str, command: tuple[str, ...] = (), **variables: str):
        self.write(source)
        process = self.start(*args, command=command, **variables)
        out, err = process.communicate(timeout=90)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def wait_for(self, *names: str, timeout: float = 60) -> list[str]:
        """The contents of files that the program writes into its folder, once they are there."""
        deadline = time.monotonic() + timeout
        paths = [self.folder / name for name in names]
        while not all(path.exists() and path.read_text().endswith("\n") for path in paths):
            assert time.monotonic() < deadline, f"no {names} in {list(self.folder.iterdir())}"
            time.sleep(0.02)
        return [path.read_text().strip() for path in paths]


@pytest.fixture
def program(tmp_path):
    program = Program(tmp_path)
    yield program
    for process in program.started:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed process whose new parent has not waited for it yet is dead too.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def gone():
    """Whether processes end within some seconds."""

    def check(*pids: int, within: float = 10.0) -> bool:
        deadline = time.monotonic() + within
        while any(_alive(pid) for pid in pids):
            if time.monotonic() > deadline:
                for pid in pids:
                    if _alive(pid):
                        os.kill(pid, signal.SIGKILL)
                return False
            time.sleep(0.02)
        return True

    return check
