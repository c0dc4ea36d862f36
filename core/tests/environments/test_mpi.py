from __future__ import annotations

import pytest

from torchrelay.environments.mpi import MPIEnvironment
from torchrelay.errors import LaunchError

# Rank 3 of four, two on each of two nodes.
OPEN_MPI = {
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_UNIVERSE_SIZE": "4",
    "PMIX_NAMESPACE": "prterun-node1-12345@1",
    "PMIX_RANK": "3",
}
HYDRA = {
    "HYDI_CONTROL_FD": "8",
    "MPI_LOCALNRANKS": "2",
    "MPI_LOCALRANKID": "1",
    "PMI_FD": "9",
    "PMI_RANK": "3",
    "PMI_SIZE": "4",
}
MVAPICH2 = {
    "MV2_COMM_WORLD_LOCAL_RANK": "1",
    "MV2_COMM_WORLD_LOCAL_SIZE": "2",
    "MV2_COMM_WORLD_RANK": "3",
    "MV2_COMM_WORLD_SIZE": "4",
}


@pytest.mark.parametrize("recorded", [OPEN_MPI, HYDRA, MVAPICH2])
def test_the_launchers_variables_are_read(recorded):
    environ = {**recorded, "MASTER_ADDR": "node1", "MASTER_PORT": "23456"}
    assert MPIEnvironment.detect(environ)
    environment = MPIEnvironment(environ)
    assert environment.creates_processes
    assert (environment.global_rank, environment.local_rank, environment.node_rank) == (3, 1, 1)
    assert (environment.world_size, environment.local_world_size) == (4, 2)
    assert (environment.main_address, environment.main_port) == ("node1", 23456)
    environment.check(devices=2, num_nodes=2)


def test_several_nodes_need_an_address():
    with pytest.raises(LaunchError, match="mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500"):
        _ = MPIEnvironment(OPEN_MPI).main_address


def test_one_node_needs_none():
    one = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}
    environment = MPIEnvironment(one)
    assert environment.main_address == "127.0.0.1"
    assert environment.node_rank == 0
    assert 15000 <= environment.main_port < 30000
    other = MPIEnvironment({**one, "PMIX_NAMESPACE": "prterun-node1-12346@1"})
    assert environment.main_port != other.main_port
    assert MPIEnvironment({**HYDRA, "MPI_LOCALNRANKS": "4"}).main_port == 29500


@pytest.mark.parametrize(
    ("devices", "nodes", "message"),
    [(2, 1, "mpi started 4"), (4, 2, "mpi started 4"), (4, 1, "ppr:4:node"), (1, 4, "ppr:1:node")],
)
def test_another_layout_is_refused(devices, nodes, message):
    with pytest.raises(LaunchError, match=message):
        MPIEnvironment(OPEN_MPI).check(devices=devices, num_nodes=nodes)


def test_ranks_dealt_out_in_turn_are_refused():
    dealt = {**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "2"}
    with pytest.raises(LaunchError, match=r"in turn .rank 2 is local rank 1"):
        MPIEnvironment(dealt).check(devices=2, num_nodes=2)


def test_it_is_not_recognised_elsewhere():
    assert not MPIEnvironment.detect({"PMI_RANK": "0"})
    assert not MPIEnvironment.detect({})
    with pytest.raises(LaunchError, match="mpirun"):
        _ = MPIEnvironment({}).world_size
