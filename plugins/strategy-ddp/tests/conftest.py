"""Runs the programs of `scripts/` in processes of their own and reads what each rank left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchrelay.testing.fixtures import distance as distance
from torchrelay.testing.fixtures import gone as gone
from torchrelay.testing.fixtures import no_cluster as no_cluster
from torchrelay.testing.fixtures import nodes as nodes
from torchrelay.testing.fixtures import programs as programs
from torchrelay.testing.fixtures import pytest_configure as pytest_configure
from torchrelay.testing.fixtures import pytest_runtest_setup as pytest_runtest_setup
from torchrelay.testing.fixtures import scripts as scripts
from torchrelay.testing.fixtures import shared as shared
from torchrelay.testing.forkserver import shared_server
from torchrelay.testing.programs import Programs

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The state at which one process arrives in runs.py."""
    alone = Programs(SCRIPTS, tmp_path_factory.mktemp("reference"), shared_server().popen)
    ((outcome,),) = alone.train("runs.py", '{"strategy": "single_device"}', ranks=1, name="runs")
    state: dict[str, torch.Tensor] = outcome["state"]
    return state
