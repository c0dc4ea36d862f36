from __future__ import annotations

import pytest

from torchrelay.environments.kubeflow import KubeflowEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError

# Pod worker-1 of a PyTorchJob with one Master and two Workers.
RECORDED = {
    "HOSTNAME": "digits-worker-1",
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "MASTER_ADDR": "digits-master-0",
    "MASTER_PORT": "23456",
    "PYTHONUNBUFFERED": "1",
    "RANK": "2",
    "WORLD_SIZE": "3",
}


def test_the_operators_variables_are_read():
    assert KubeflowEnvironment.detect(RECORDED)
    environment = KubeflowEnvironment(RECORDED)
    assert environment.creates_processes
    assert (environment.global_rank, environment.local_rank, environment.node_rank) == (2, 0, 2)
    assert (environment.world_size, environment.local_world_size) == (3, 1)
    assert (environment.main_address, environment.main_port) == ("digits-master-0", 23456)
    environment.check(devices=1, num_nodes=3)


def test_another_number_of_pods_is_refused():
    with pytest.raises(LaunchError, match=r"kubeflow started 3; make them equal\. The PyTorchJob"):
        KubeflowEnvironment(RECORDED).check(devices=1, num_nodes=2)


def test_several_devices_in_a_pod_need_torchrun():
    with pytest.raises(LaunchError, match="torchrun --nnodes 3 --nproc-per-node 4 --node-rank 2"):
        KubeflowEnvironment(RECORDED).check(devices=4, num_nodes=3)


def test_it_is_not_recognised_elsewhere():
    for variable in ("KUBERNETES_PORT", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"):
        assert not KubeflowEnvironment.detect(
            {k: v for k, v in RECORDED.items() if k != variable}
        ), variable
    assert not KubeflowEnvironment.detect({**RECORDED, "TORCHELASTIC_RUN_ID": "x"})


def test_a_process_that_torchrelay_launched_in_a_pod_is_not_a_pod():
    seat = Seat(1, 1, 2, 2, 0, "127.0.0.1", 1, 1, "/tmp")
    assert not KubeflowEnvironment.detect({**RECORDED, **seat.variables()})
