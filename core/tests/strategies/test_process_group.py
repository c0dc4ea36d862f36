"""ProcessGroupStrategy: who starts its processes, and what they meet in."""

from __future__ import annotations

from datetime import timedelta

import pytest

from torchrelay.accelerators import CPUAccelerator
from torchrelay.checkpoint import TorchCheckpointIO
from torchrelay.collectives import TorchCollectives
from torchrelay.environments import LocalEnvironment, TorchrunEnvironment
from torchrelay.errors import ConfigurationError
from torchrelay.launchers import MultiProcessingLauncher, ScriptLauncher
from torchrelay.precision import TruePrecision
from torchrelay.strategies import Needs, Parts, ProcessGroupStrategy

TORCHRUN = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "GROUP_RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


class Unreachable(CPUAccelerator):
    """A device over which torch.distributed has nothing to offer."""

    process_group_backend = None


def make(environment=None, accelerator=None, **options):
    strategy = ProcessGroupStrategy(**options)
    strategy.bind(
        Parts(
            accelerator=accelerator or CPUAccelerator(),
            precision_plugin=TruePrecision(),
            checkpoint_io=TorchCheckpointIO(),
            cluster_environment=environment or LocalEnvironment({}),
            devices=(0, 1),
        )
    )
    return strategy


NEEDS = Needs(capabilities={}, precision="32-true", num_nodes=1)


@pytest.mark.parametrize(
    ("method", "launcher"),
    [
        ("script", ScriptLauncher),
        ("spawn", MultiProcessingLauncher),
        ("fork", MultiProcessingLauncher),
    ],
)
def test_the_start_method_chooses_the_launcher(method, launcher):
    strategy = make(start_method=method)
    assert type(strategy.launcher) is launcher
    assert strategy.refusals(NEEDS) == []


def test_where_a_cluster_starts_processes_nobody_else_does():
    assert make(TorchrunEnvironment(TORCHRUN), start_method="spawn").launcher is None


def test_an_unknown_start_method_is_refused():
    with pytest.raises(
        ConfigurationError, match="start_method='thread' must be one of script, spawn, fork"
    ):
        ProcessGroupStrategy(start_method="thread")


@pytest.mark.parametrize(
    ("name", "value"), [("process_group_backend", "gloo"), ("timeout", timedelta(minutes=5))]
)
def test_options_of_collectives_that_the_user_made_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name} and collectives are both given"):
        ProcessGroupStrategy(collectives=TorchCollectives(), **{name: value})


def test_an_accelerator_without_a_backend_needs_one_by_name():
    (reason,) = make(accelerator=Unreachable()).refusals(NEEDS)
    assert "has no backend for accelerator 'cpu'" in reason
    assert make(accelerator=Unreachable(), process_group_backend="gloo").refusals(NEEDS) == []
    assert make(accelerator=Unreachable(), collectives=TorchCollectives()).refusals(NEEDS) == []
