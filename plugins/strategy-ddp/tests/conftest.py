"""Runs the programs of `scripts/` in processes of their own and reads what each rank left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# A shell's background job starts with Ctrl-C ignored, and so would every process that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SCRIPTS = Path(__file__).parent / "scripts"
LIMIT = 100
"""Seconds that a program may take."""

# What a scheduler or another launcher may have left in the environment of the tests themselves.
_FOREIGN = (
    "SLURM_",
    "LSB_",
    "JSM_",
    "OMPI_",
    "PMI",
    "MV2_",
    "TORCHELASTIC_",
    "KUBERNETES_",
    "TORCHRELAY_",
)
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment(**variables: str) -> dict[str, str]:
    """The tests' own environment, without what would make a program think that a cluster started it."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name not in _RANKS
    }
    return {**clean, "OMP_NUM_THREADS": "1", **variables}


class Programs:
    """Programs of `scripts/`, run in a folder of the test's.

    Each is told that folder in the variable OUT and leaves its results there, one file a rank.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, *command: str, launcher: tuple[str, ...] = (), **variables: str
    ) -> subprocess.Popen[str]:
        """Start a program.

        Args:
            command: its name in `scripts/`, or `-m` and a module's, and its arguments.
            launcher: what is to start it instead of a plain `python`.
            variables: of its environment.
        """
        words = list(command)
        if words[0].endswith(".py"):
            words[0] = str(SCRIPTS / words[0])
        process = subprocess.Popen(
            [*(launcher or (sys.executable, "-W", "error")), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=SCRIPTS if words[0] == "-m" else self.folder,
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
        paths = [self.folder / f"{name}-{rank}.pt" for rank in range(ranks)]
        return [torch.load(path, weights_only=False) for path in paths]

    def train(
        self, *command: str, ranks: int = 2, name: str = "result", **options: Any
    ) -> list[Any]:
        """Run a program that is to succeed, and return what each rank left."""
        done = self.run(*command, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.results(name, ranks)

    def pids(self, ranks: int = 2, timeout: float = 60) -> list[int]:
        """The process ids of the ranks, once all of them have trained for some steps."""
        deadline = time.monotonic() + timeout
        paths = [self.folder / f"pid-{rank}" for rank in range(ranks)]
        while not all(path.exists() and path.read_text().endswith("\n") for path in paths):
            assert time.monotonic() < deadline, f"no {paths} in {list(self.folder.iterdir())}"
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
            process.stdout.close()
            process.stderr.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Programs of one test."""
    made = Programs(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Programs whose results all tests of a module read."""
    made = Programs(tmp_path_factory.mktemp("shared"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The state at which one process arrives in runs.py."""
    alone = Programs(tmp_path_factory.mktemp("reference"))
    ((outcome,),) = alone.train("runs.py", '{"strategy": "single_device"}', ranks=1, name="runs")
    state: dict[str, torch.Tensor] = outcome["state"]
    return state


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    # A killed process whose new parent has not waited for it yet is dead too.
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def gone() -> Callable[..., bool]:
    """Whether processes end within some seconds; those that do not are ended."""

    def check(*pids: int, within: float = 10.0) -> bool:
        deadline = time.monotonic() + within
        while left := [pid for pid in pids if _alive(pid)]:
            if time.monotonic() > deadline:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return False
            time.sleep(0.02)
        return True

    return check


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Trainer made by a test itself resolves as on a machine of its own."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference between two states; their names must be the same."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.fixture(name="distance", scope="session")
def _distance() -> Callable[..., float]:
    """The function of that name."""
    return distance
