"""Processes that somebody else has started: torchrun for real, and schedulers by the variables they set."""

from __future__ import annotations

import json
import re
import socket
import sys

import pytest

pytestmark = [pytest.mark.timeout(150), pytest.mark.real_interpreters]

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
)


def test_torchrun_starts_the_processes(programs, reference, distance):
    asked = [
        {"strategy": "ddp"},
        {"strategy": "ddp", "devices": 3},
        {"strategy": "ddp", "devices": 2, "num_nodes": 2},
        {"strategy": "single_device"},
        {"strategy": "ddp_spawn", "devices": 2, "num_nodes": 1},
        {},
    ]
    ranks = programs.train("runs.py", *map(json.dumps, asked), launcher=TORCHRUN, name="runs")
    for rank, (given, devices, nodes, alone, spawn, nothing) in enumerate(ranks):
        for ran in (given, spawn, nothing):
            assert (ran["world"], ran["rank"], ran["local_rank"], ran["node"]) == (2, rank, rank, 0)
            assert (ran["environment"], ran["launches"]) == ("torchrun", False)
            assert distance(ran["state"], reference) <= 1e-12
        assert spawn["strategy"] == "DDPSpawnStrategy"
        assert nothing["strategy"] == "DDPStrategy"
        assert devices["refused"] == (
            "devices=3, but torchrun started 2 processes on this node; take torchrun --nproc-per-node 3, "
            "or devices=2"
        )
        assert nodes["refused"].startswith(
            "devices=2 x num_nodes=2 asks for 4 processes, but torchrun started 2; make them equal"
        )
        assert alone["refused"].startswith("SingleDeviceStrategy cannot do this: devices=2")
        assert not any(refused["connected"] for refused in (devices, nodes, alone))


def test_after_a_failure_torchrun_restarts_the_run_from_the_last_checkpoint(
    programs, reference, distance
):
    launcher = (*TORCHRUN, "--max-restarts", "1")
    ranks = programs.train("elastic.py", launcher=launcher, name="elastic")
    for rank in ranks:
        assert (rank["attempt"], rank["resumed"], rank["steps"]) == (1, True, 20)
        assert distance(rank["state"], reference) <= 1e-12


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(ports: range) -> int:
    return next(port for port in ports if is_free(port))


def slurm(rank: int, folder) -> dict[str, str]:
    """`srun --nodes=2 --ntasks-per-node=1`, both nodes on loopback."""
    port = free_port(range(15000, 25000))
    return {
        "SLURM_JOB_ID": str(1230000 + port - 15000),
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_NODELIST": "localhost,node[02-03]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(rank),
        "SLURM_NODELIST": "localhost,node02",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": "localhost,node02",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_TASKS_PER_NODE": "1(x2)",
    }


def lsf(rank: int, folder) -> dict[str, str]:
    """`jsrun --nrs 1 --tasks_per_rs 2`."""
    hosts = folder / "hosts"
    hosts.write_text(f"batch1\n{socket.gethostname()}\n{socket.gethostname()}\n")
    return {
        "JSM_NAMESPACE_LOCAL_RANK": str(rank),
        "JSM_NAMESPACE_RANK": str(rank),
        "JSM_NAMESPACE_SIZE": "2",
        "LSB_DJOB_RANKFILE": str(hosts),
        "LSB_JOBID": str(771000 + free_port(range(10000, 11000)) - 10000),
        "MASTER_ADDR": "127.0.0.1",
    }


def kubeflow(rank: int, folder) -> dict[str, str]:
    """A PyTorchJob of a master and a worker."""
    return {
        "KUBERNETES_PORT": "tcp://10.0.0.1:443",
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(free_port(range(23456, 24000))),
        "PYTHONUNBUFFERED": "1",
        "RANK": str(rank),
        "WORLD_SIZE": "2",
    }


def open_mpi(rank: int, folder) -> dict[str, str]:
    """`mpirun -np 2`, Open MPI 5."""
    return {
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_COMM_WORLD_NODE_RANK": str(rank),
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": "2",
        "PMIX_NAMESPACE": f"prterun-host-{folder.name}@1",
        "PMIX_RANK": str(rank),
    }


def mpich(rank: int, folder) -> dict[str, str]:
    """`mpiexec -n 2 -genv MASTER_PORT PORT`, Hydra."""
    return {
        "MASTER_PORT": str(free_port(range(24000, 25000))),
        "MPI_LOCALNRANKS": "2",
        "MPI_LOCALRANKID": str(rank),
        "PMI_RANK": str(rank),
        "PMI_SIZE": "2",
    }


MANAGERS = {
    "slurm": (slurm, "localhost", 15000, (1, 0)),
    "lsf": (lsf, "127.0.0.1", 10000, (0, 1)),
    "kubeflow": (kubeflow, "localhost", 23456, (1, 0)),
    "open mpi": (open_mpi, "127.0.0.1", 15000, (0, 1)),
    "mpich": (mpich, "127.0.0.1", 24000, (0, 1)),
}


@pytest.mark.parametrize("manager", MANAGERS)
def test_two_processes_of_a_manager_train_together(programs, reference, distance, manager):
    variables, address, least_port, (node, local_rank) = MANAGERS[manager]
    set_for = [variables(rank, programs.folder) for rank in (0, 1)]
    processes = [
        # Nothing is given: nodes and devices follow from the variables.
        programs.start("runs.py", '{"strategy": "ddp"}', SEAT=str(rank), **set_for[rank])
        for rank in (0, 1)
    ]
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    ranks = [outcomes[0] for outcomes in programs.results("runs")]
    name = re.sub(".*mpi.*", "mpi", manager)
    for rank, ran in enumerate(ranks):
        assert (ran["environment"], ran["world"], ran["rank"]) == (name, 2, rank)
        assert (ran["node"], ran["local_rank"]) == (rank * node, rank * local_rank)
        assert (ran["address"], ran["launches"]) == (address, False)
        assert least_port <= ran["port"] == ranks[0]["port"] < least_port + 15000
        assert distance(ran["state"], reference) <= 1e-12
