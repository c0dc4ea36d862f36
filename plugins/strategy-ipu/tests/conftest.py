"""Puts the simulator of PopTorch where the tests, and no shipped package, find it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from torchrelay.plugin.registry import refresh
from torchrelay.testing.fixtures import distance as distance
from torchrelay.testing.fixtures import no_cluster as no_cluster
from torchrelay.testing.fixtures import pytest_configure as pytest_configure

SIMULATOR = Path(__file__).parent / "simulator"
SUPPORT = Path(__file__).parent / "support"


def real_poptorch() -> bool:
    """Whether the tests run beside a device, on the SDK's own PopTorch."""
    return os.environ.get("TORCHRELAY_IPU_DEVICE", "") == "1"


if str(SUPPORT) not in sys.path:
    sys.path.insert(0, str(SUPPORT))
if not real_poptorch() and str(SIMULATOR) not in sys.path:
    sys.path.insert(0, str(SIMULATOR))
    refresh()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a device, and on one what examines the simulator."""
    marked = item.get_closest_marker("ipu") is not None
    if marked and not real_poptorch():
        pytest.skip("needs an IPU; TORCHRELAY_IPU_DEVICE=1 says that there is one")
    if real_poptorch() and not marked:
        pytest.skip("examines the simulator; on a device run the tests marked ipu")


@pytest.fixture(autouse=True)
def simulated_machine(monkeypatch):
    """Two IPUs that nobody has, and no emulator."""
    if real_poptorch():
        return
    from poptorch import hardware

    hardware.owners.clear()
    monkeypatch.setenv(hardware.NUMBER, "2")
    monkeypatch.delenv("POPTORCH_IPU_MODEL", raising=False)
