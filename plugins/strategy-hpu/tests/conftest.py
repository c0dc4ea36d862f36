"""Puts the simulator of Habana's bridge where the tests, and no shipped package, find it."""

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

SIMULATOR = Path(__file__).parent / "simulator"
SUPPORT = Path(__file__).parent / "support"


def real_bridge() -> bool:
    """Whether the tests run beside a device, on the SDK's own bridge."""
    return os.environ.get("TORCHRELAY_HPU_DEVICE", "") == "1"


if str(SUPPORT) not in sys.path:
    sys.path.insert(0, str(SUPPORT))
if not real_bridge() and str(SIMULATOR) not in sys.path:
    sys.path.insert(0, str(SIMULATOR))
    refresh()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a device, and on one what examines the simulator."""
    marked = item.get_closest_marker("hpu") is not None
    if marked and not real_bridge():
        pytest.skip("needs an HPU; TORCHRELAY_HPU_DEVICE=1 says that there is one")
    if real_bridge() and not marked:
        pytest.skip("examines the simulator; on a device run the tests marked hpu")


@pytest.fixture(autouse=True)
def simulated_machine(monkeypatch):
    """Two HPUs of the second generation, and a bridge in lazy mode, as it comes."""
    if real_bridge():
        return
    import hpu_rules

    monkeypatch.setenv("HPU_SIMULATOR_DEVICES", "2")
    monkeypatch.setenv("HPU_SIMULATOR_NAME", "GAUDI2")
    monkeypatch.delenv("PT_HPU_LAZY_MODE", raising=False)
    with hpu_rules.mode(lazy=True):
        yield
