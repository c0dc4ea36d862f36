"""Puts the simulator of Bagua where the tests, and no shipped package, find it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from torchrelay.plugin.registry import refresh
from torchrelay.testing.fixtures import distance as distance
from torchrelay.testing.fixtures import gone as gone
from torchrelay.testing.fixtures import no_cluster as no_cluster
from torchrelay.testing.fixtures import programs as programs
from torchrelay.testing.fixtures import pytest_configure as pytest_configure
from torchrelay.testing.fixtures import scripts as scripts
from torchrelay.testing.fixtures import shared as shared

HERE = Path(__file__).parent
SIMULATOR = HERE / "simulator"


def real_bagua() -> bool:
    """Whether the tests run on GPUs, with Bagua itself."""
    return os.environ.get("TORCHRELAY_BAGUA_DEVICE", "") == "1"


for folder in (HERE / "support", HERE / "equipment", *([] if real_bagua() else [SIMULATOR])):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        refresh()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU, and beside one what examines the simulator."""
    marked = item.get_closest_marker("cuda") is not None
    if marked and not real_bagua():
        pytest.skip("needs GPUs and Bagua; TORCHRELAY_BAGUA_DEVICE=1 says that both are there")
    if real_bagua() and not marked:
        pytest.skip("examines the simulator; on GPUs run the tests marked cuda")
