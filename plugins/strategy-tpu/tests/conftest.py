"""Runs the programs of `scripts/` in processes of their own and reads what each rank left behind."""

from __future__ import annotations

from torchrelay.testing.fixtures import distance as distance
from torchrelay.testing.fixtures import gone as gone
from torchrelay.testing.fixtures import no_cluster as no_cluster
from torchrelay.testing.fixtures import programs as programs
from torchrelay.testing.fixtures import pytest_configure as pytest_configure
from torchrelay.testing.fixtures import pytest_runtest_setup as pytest_runtest_setup
from torchrelay.testing.fixtures import scripts as scripts
from torchrelay.testing.fixtures import shared as shared
