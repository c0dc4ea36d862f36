"""Runs the programs of `scripts/` in processes of their own and reads what each rank left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchrelay.testing.fixtures import distance as distance
from torchrelay.testing.fixtures import no_cluster as no_cluster
from torchrelay.testing.fixtures import programs as programs
from torchrelay.testing.fixtures import pytest_configure as pytest_configure
from torchrelay.testing.fixtures import scripts as scripts
from torchrelay.testing.fixtures import shared as shared
from torchrelay.testing.programs import Programs
from torchrelay_tpu.probe import PCI, found


def pytest_runtest_setup(item):
    """Skip what is marked `tpu` where there is none; `PJRT_DEVICE`, by which the other tests run, does not count."""
    if item.get_closest_marker("tpu") and not found({}, PCI).count:
        pytest.skip("needs a TPU")


@pytest.fixture(scope="session")
def scripts_of():
    """Makes `Programs` that leave their results in a folder."""
    made = []

    def make(folder):
        made.append(Programs(Path(__file__).with_name("scripts"), folder))
        return made[-1]

    yield make
    for each in made:
        each.close()
