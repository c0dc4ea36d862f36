from __future__ import annotations

import pytest

from torchrelay.environments.seat import Seat
from torchrelay.environments.torchrun import TorchrunEnvironment
from torchrelay.errors import LaunchError

# Rank 3 of `torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d`, after one restart.
RECORDED = {
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.77.0.1",
    "MASTER_PORT": "41623",
    "OMP_NUM_THREADS": "1",
    "RANK": "3",
    "ROLE_NAME": "default",
    "ROLE_RANK": "3",
    "ROLE_WORLD_SIZE": "4",
    "TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_x/none_y/attempt_1/1/error.json",
    "TORCHELASTIC_MAX_RESTARTS": "3",
    "TORCHELASTIC_RESTART_COUNT": "1",
    "TORCHELASTIC_RUN_ID": "job",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "WORLD_SIZE": "4",
}


def test_torchruns_variables_are_read():
    assert TorchrunEnvironment.detect(RECORDED)
    environment = TorchrunEnvironment(RECORDED)
    assert environment.creates_processes
    assert environment.store_is_hosted
    assert environment.restart_count == 1
    assert (environment.global_rank, environment.local_rank, environment.node_rank) == (3, 1, 1)
    assert (environment.world_size, environment.local_world_size) == (4, 2)
    assert (environment.main_address, environment.main_port) == ("10.77.0.1", 41623)
    environment.check(devices=2, num_nodes=2)


@pytest.mark.parametrize(("devices", "nodes"), [(4, 1), (1, 4), (2, 1), (2, 3)])
def test_another_layout_is_refused(devices, nodes):
    with pytest.raises(LaunchError, match="torchrun"):
        TorchrunEnvironment(RECORDED).check(devices=devices, num_nodes=nodes)


def test_it_is_not_recognised_elsewhere():
    assert not TorchrunEnvironment.detect({"RANK": "0", "WORLD_SIZE": "1"})
    seat = Seat(1, 1, 2, 2, 0, "127.0.0.1", 1, 1, "/tmp")
    assert not TorchrunEnvironment.detect({**RECORDED, **seat.variables()})


@pytest.mark.parametrize("broken", [{"LOCAL_RANK": "x"}, {}])
def test_a_bad_variable_is_named(broken):
    environment = TorchrunEnvironment({"TORCHELASTIC_RUN_ID": "job", **broken})
    with pytest.raises(LaunchError, match="LOCAL_RANK"):
        _ = environment.local_rank
