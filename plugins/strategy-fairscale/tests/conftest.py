"""Runs the programs of `scripts/` in processes of their own and reads what each rank left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from torchrelay.testing import programs as equipment
from torchrelay.testing.programs import Programs, environment

# A shell's background job starts with Ctrl-C ignored, and so would every process that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SCRIPTS = Path(__file__).parent / "scripts"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Programs of one test."""
    made = Programs(SCRIPTS, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Programs whose results all tests of a module read."""
    made = Programs(SCRIPTS, tmp_path_factory.mktemp("shared"))
    yield made
    made.close()


@pytest.fixture(name="gone", scope="session")
def _gone() -> Callable[..., bool]:
    """The function of that name."""
    return equipment.gone


@pytest.fixture(name="distance", scope="session")
def _distance() -> Callable[..., float]:
    """The function of that name."""
    return equipment.distance


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Trainer made by a test itself resolves as on a machine of its own."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
