from __future__ import annotations

import copy
import os
import pickle
import sys
from dataclasses import replace

import pytest

from torchrelay.environments.local import LocalEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError

SEAT = Seat(1, 1, 2, 2, 0, "127.0.0.1", 4321, 77, "/tmp/reports")


def test_alone_it_is_rank_0_of_1():
    environment = LocalEnvironment({})
    assert not environment.creates_processes
    assert not environment.store_is_hosted
    assert (environment.global_rank, environment.local_rank, environment.node_rank) == (0, 0, 0)
    assert (environment.world_size, environment.local_world_size) == (1, 1)
    assert (environment.main_address, environment.main_port) == ("127.0.0.1", 0)
    environment.check(devices=8, num_nodes=1)


def test_in_a_launched_process_the_seat_is_read():
    environment = LocalEnvironment(SEAT.variables())
    assert environment.creates_processes
    assert environment.store_is_hosted
    assert (environment.global_rank, environment.local_rank, environment.node_rank) == (1, 1, 0)
    assert (environment.world_size, environment.local_world_size) == (2, 2)
    assert (environment.main_address, environment.main_port) == ("127.0.0.1", 4321)
    environment.check(devices=2, num_nodes=1)
    with pytest.raises(
        LaunchError, match="devices=3 x num_nodes=1 asks for 3 processes, but local started 2"
    ):
        environment.check(devices=3, num_nodes=1)


def test_the_launching_process_takes_a_seat_and_leaves_it():
    before = dict(os.environ)
    environment = LocalEnvironment()
    environment.take(replace(SEAT, parent_pid=os.getpid()))
    assert not environment.creates_processes
    assert environment.store_is_hosted
    assert (environment.global_rank, environment.world_size) == (1, 2)
    assert dict(os.environ) == before
    environment.release()
    assert (environment.global_rank, environment.world_size) == (0, 1)


def test_several_nodes_are_refused_with_the_torchrun_command(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "train.py", "--lr", "0.1"])
    with pytest.raises(LaunchError) as caught:
        LocalEnvironment({}).check(devices=4, num_nodes=2)
    message = str(caught.value)
    assert message.endswith(
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500 "
        "--rdzv-id RUN_NAME train.py --lr 0.1"
    )
    assert "\n" not in message


def test_a_copy_in_another_process_takes_the_seat_of_that_process():
    environment = LocalEnvironment({})
    environment.take(SEAT)
    assert environment.creates_processes
    assert environment.global_rank == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copy_reads_the_process_it_is_in(copied):
    environment = LocalEnvironment()
    environment.take(SEAT)
    other = copied(environment)
    assert other.environ is os.environ
    assert other.global_rank == 1
    assert copied(LocalEnvironment({"A": "1"})).environ == {"A": "1"}


def test_environments_import_no_torch():
    import subprocess

    names = [
        "environment",
        "kubeflow",
        "local",
        "lsf",
        "mpi",
        "program",
        "seat",
        "slurm",
        "torchrun",
    ]
    imports = ", ".join(f"torchrelay.environments.{name}" for name in names)
    code = f"import sys, {imports}; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
