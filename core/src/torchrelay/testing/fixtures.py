"""What the conftest.py of a plugin's tests imports, so that its tests run programs in processes of their own::

    from torchrelay.testing.fixtures import no_cluster as no_cluster
    from torchrelay.testing.fixtures import programs as programs
    from torchrelay.testing.fixtures import pytest_configure as pytest_configure

Needs pytest (extra `testing`). Importing it needs no torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torchrelay.testing.nodes import Nodes
    from torchrelay.testing.programs import Programs


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests interrupt.

    A shell's background job starts with it ignored, and so would every process that it starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `cuda` where there is no GPU."""
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(scope="module")
def scripts(request: pytest.FixtureRequest) -> Path:
    """Where the programs are: the folder `scripts` beside the module of the test."""
    return request.path.parent / "scripts"


@pytest.fixture
def programs(request: pytest.FixtureRequest, scripts: Path, tmp_path: Path) -> Iterator[Programs]:
    """Programs of one test; copies of a process that has imported torch, unless it is marked `real_interpreters`."""
    yield from _programs(request, scripts, tmp_path)


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, scripts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Programs]:
    """Programs whose results all tests of a module read; copies unless the module is marked `real_interpreters`."""
    yield from _programs(request, scripts, tmp_path_factory.mktemp("shared"))


def _programs(request: pytest.FixtureRequest, scripts: Path, folder: Path) -> Iterator[Programs]:
    from torchrelay.testing.forkserver import shared_server
    from torchrelay.testing.programs import Programs

    real = request.node.get_closest_marker("real_interpreters") is not None
    made = Programs(scripts, folder, subprocess.Popen if real else shared_server().popen)
    yield made
    made.close()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two machines that reach each other."""
    from torchrelay.testing.nodes import two_nodes

    with two_nodes() as made:
        yield made


@pytest.fixture(scope="session")
def gone() -> Callable[..., bool]:
    """The function of that name in `torchrelay.testing.programs`."""
    from torchrelay.testing.programs import gone

    return gone


@pytest.fixture(scope="session")
def distance() -> Callable[..., float]:
    """The function of that name in `torchrelay.testing.programs`."""
    from torchrelay.testing.programs import distance

    return distance


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Trainer made by a test itself resolves as on a machine of its own."""
    from torchrelay.testing.programs import environment

    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
