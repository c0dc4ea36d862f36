"""How the processes of a run come into being, how they end, and which ones are refused."""

from __future__ import annotations

import re
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from torchrelay import Trainer
from torchrelay.environments import (
    KubeflowEnvironment,
    LocalEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchrunEnvironment,
)
from torchrelay.errors import ConfigurationError, LaunchError, UnsupportedError
from torchrelay_horovod import HorovodEnvironment, HorovodStrategy, vendor

pytestmark = [pytest.mark.timeout(150), pytest.mark.real_interpreters]

SCRIPTS = Path(sysconfig.get_path("scripts"))
HOROVODRUN = (str(SCRIPTS / "horovodrun"), "-np", "2", "python", "-W", "error")
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
    *("--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
)
NOTEBOOK = (sys.executable, "-W", "error", "-i")

PROMPT = 15.0
"""Seconds in which everybody is gone once a rank has failed."""


@pytest.mark.parametrize(
    ("arguments", "launcher", "name"),
    [
        ([], (), "script"),
        (["spawn"], (), "multiprocessing"),
        (["fork"], (), "multiprocessing"),
        ([], NOTEBOOK, "multiprocessing"),
    ],
    ids=["script", "spawn", "fork", "notebook"],
)
def test_the_strategy_starts_its_processes(programs, distance, arguments, launcher, name):
    (caller,) = programs.train("started.py", *arguments, ranks=1, name="caller", launcher=launcher)
    inside = programs.results("inside")
    # What comes back from other processes is loaded into the module as it was, in 32 bits.
    assert distance(caller["state"], caller["expected"]) <= (1e-12 if name == "script" else 1e-7)
    for rank in inside:
        assert distance(rank["state"], caller["expected"]) <= 1e-12
        assert (rank["environment"], rank["launcher"]) == ("local", name)
        assert rank["variables"] == []
    assert len({rank["pid"] for rank in inside}) == 2
    assert (inside[0]["pid"] == caller["pid"]) == (name == "script")


def test_processes_that_horovodrun_has_started_are_taken(programs, distance):
    first, second = programs.train("started.py", name="inside", launcher=HOROVODRUN)
    assert distance(first["state"], second["state"]) == 0
    assert (first["environment"], first["launcher"]) == ("horovod", None)


def test_a_rank_that_waits_takes_no_more_of_the_processor_than_under_horovodrun(programs):
    # Both at once, as the same wait takes more where others use the machine.
    processes = [
        programs.start("idle.py", "ours"),
        programs.start("idle.py", "horovodrun", launcher=HOROVODRUN),
    ]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    ours, theirs = (min(programs.results(name)) for name in ("ours", "horovodrun"))
    assert 0 < ours <= 1.5 * theirs + 0.03


@pytest.mark.parametrize(
    ("how", "rank", "said"),
    [
        ("fails", 1, "ValueError: the reason itself"),
        ("fails", 0, "ValueError: the reason itself"),
        ("killed", 1, "rank 1 was killed by signal 9 (SIGKILL)"),
    ],
)
def test_a_rank_that_fails_ends_all(programs, gone, how, rank, said):
    done = programs.run("mortal.py", how, str(rank))
    ended = time.monotonic()
    assert done.returncode not in (0, None)
    assert said in done.stderr
    assert done.stderr.count("Traceback") == (how == "fails")
    assert gone(*programs.pids(), within=0)
    assert ended - float((programs.folder / f"met-{rank}").read_text()) < PROMPT


def test_under_horovodrun_too(programs, gone):
    done = programs.run("mortal.py", "fails", "1", launcher=HOROVODRUN)
    assert done.returncode
    assert "ValueError: the reason itself" in done.stderr
    assert gone(*programs.pids(), within=0)


def test_a_rank_that_does_not_come_is_named(programs, gone):
    done = programs.run("mortal.py", "absent", "1")
    assert done.returncode not in (0, None)
    assert "rank 1 is not there" in done.stderr, done.stderr
    assert "time.sleep(1000)" in done.stderr
    assert gone(*programs.pids(), within=5)


# --- processes of which Horovod does not know -----------------------------------------------------------


def test_under_torchrun_nobody_trains_alone(programs):
    done = programs.run("started.py", launcher=TORCHRUN)
    assert done.returncode
    assert "each of them would take itself for the only one" in done.stderr
    assert "horovodrun -np 2 python" in done.stderr
    assert "started.py" in done.stderr
    assert not list(programs.folder.glob("inside-*"))


QUIET = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}


def refusal(strategy="horovod", **arguments):
    """What is said when a Trainer is made."""
    with pytest.raises((ConfigurationError, UnsupportedError, LaunchError)) as raised:
        Trainer(strategy=strategy, accelerator="cpu", **QUIET, **{"devices": 2, **arguments})
    assert "\n" not in str(raised.value)
    return str(raised.value)


TORCHRUN_SAYS = {
    "RANK": 0,
    "LOCAL_RANK": 0,
    "GROUP_RANK": 0,
    "WORLD_SIZE": 2,
    "LOCAL_WORLD_SIZE": 2,
}
SLURM_SAYS = {
    "SLURM_NTASKS": 2,
    "SLURM_PROCID": 0,
    "SLURM_LOCALID": 0,
    "SLURM_NODEID": 0,
    "SLURM_NNODES": 1,
    "SLURM_NTASKS_PER_NODE": 2,
    "SLURM_JOB_ID": 1,
}
MPI_SAYS = {
    "OMPI_COMM_WORLD_RANK": 0,
    "OMPI_COMM_WORLD_SIZE": 2,
    "OMPI_COMM_WORLD_LOCAL_RANK": 0,
    "OMPI_COMM_WORLD_LOCAL_SIZE": 2,
}
KUBEFLOW_SAYS = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}
HOROVOD_SAYS = {
    "HOROVOD_RANK": 0,
    "HOROVOD_SIZE": 2,
    "HOROVOD_LOCAL_RANK": 0,
    "HOROVOD_LOCAL_SIZE": 2,
    "HOROVOD_CROSS_RANK": 0,
    "HOROVOD_CROSS_SIZE": 1,
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": 40000,
}


def variables(says):
    return {name: str(value) for name, value in says.items()}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (TorchrunEnvironment, TORCHRUN_SAYS),
        (SLURMEnvironment, SLURM_SAYS),
        (KubeflowEnvironment, KUBEFLOW_SAYS),
    ],
)
def test_processes_of_others_are_refused_with_the_command(kind, says):
    message = refusal(plugins=kind(variables(says)))
    assert f"{kind.name} started the processes, of which Horovod does not know" in message
    assert re.search(r"start them with: horovodrun -np \d python", message)


def test_processes_of_mpi_are_refused_without_mpi():
    message = refusal(plugins=MPIEnvironment(variables(MPI_SAYS)))
    assert "this Horovod is built without it" in message
    assert "horovodrun -np 2" in message


def test_several_machines_are_horovodrun_s():
    message = refusal(num_nodes=2)
    assert "horovodrun -np 4 -H HOST1:2,HOST2:2 python" in message
    assert "torchrun --" not in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_nodes": 2}, "devices=2 x num_nodes=2 asks for 4 processes, but horovod started 2"),
        ({"devices": 3}, "devices=3, but horovodrun started 2 processes on this host"),
        ({"devices": 1, "num_nodes": 2}, "devices=1, but horovodrun started 2 processes"),
    ],
)
def test_what_contradicts_horovodrun_is_refused(arguments, said):
    assert said in refusal(plugins=HorovodEnvironment(variables(HOROVOD_SAYS)), **arguments)


def test_a_start_method_beside_horovodrun_is_refused():
    environment = HorovodEnvironment(variables(HOROVOD_SAYS))
    message = refusal(HorovodStrategy(start_method="fork"), plugins=environment)
    assert "horovodrun has started the processes; leave it out" in message


def test_adasum_is_refused_without_mpi():
    message = refusal(HorovodStrategy(op="adasum"))
    assert "Adasum only where it is built with MPI" in message


def test_without_gloo_there_is_no_launch(monkeypatch):
    monkeypatch.setattr(vendor, "gloo_built", lambda: False)
    assert "built without gloo" in refusal()


def test_synchronised_batch_norm_is_refused():
    assert "Horovod's SyncBatchNorm runs on GPUs only" in refusal(sync_batchnorm=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"compression": "fp8"}, "compression='fp8' must be one of 'none', 'fp16'"),
        ({"op": "sum"}, "op='sum' must be one of 'average', 'adasum'"),
        ({"start_method": "ssh"}, "start_method='ssh' must be one of"),
        ({"gradient_predivide_factor": 0}, "must be a number above 0"),
    ],
)
def test_values_that_cannot_be_are_refused(options, said):
    with pytest.raises(ConfigurationError, match=said):
        HorovodStrategy(**options)


# --- the environment ------------------------------------------------------------------------------------


def test_horovodrun_is_recognised_by_its_variables():
    says = variables(HOROVOD_SAYS)
    assert HorovodEnvironment.detect(says)
    assert not HorovodEnvironment.detect({})
    trainer = Trainer(
        strategy="horovod", accelerator="cpu", plugins=HorovodEnvironment(says), **QUIET
    )
    assert (trainer.world_size, trainer.num_devices, trainer.num_nodes) == (2, 2, 1)
    assert trainer.strategy.launcher is None


def test_a_cluster_s_variables_beside_horovodrun_s_are_of_no_account(monkeypatch):
    for name, value in {**variables(HOROVOD_SAYS), **variables(SLURM_SAYS)}.items():
        monkeypatch.setenv(name, value)
    trainer = Trainer(strategy="horovod", accelerator="cpu", **QUIET)
    assert isinstance(trainer.strategy.cluster_environment, HorovodEnvironment)


def test_without_a_cluster_the_environment_is_local():
    trainer = Trainer(strategy="horovod", accelerator="cpu", devices=2, **QUIET)
    assert isinstance(trainer.strategy.cluster_environment, LocalEnvironment)


@pytest.mark.parametrize("port", [1024, 14999, 15000, 22500, 24278, 29999, 30000, 65535])
def test_the_port_of_rank_0_is_not_horovod_s(port):
    says = variables({**HOROVOD_SAYS, "HOROVOD_GLOO_RENDEZVOUS_PORT": port})
    assert 15000 <= HorovodEnvironment(says).main_port < 30000
    assert HorovodEnvironment(says).main_port != port


def test_where_rank_0_is_has_to_be_said_on_several_machines():
    says = variables(HOROVOD_SAYS)
    assert HorovodEnvironment(says).main_address == "127.0.0.1"
    assert 15000 <= HorovodEnvironment(says).main_port < 30000
    far = {**says, "HOROVOD_LOCAL_SIZE": "1", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1"}
    with pytest.raises(LaunchError, match="MASTER_ADDR"):
        assert HorovodEnvironment(far).main_address
    named = HorovodEnvironment({**far, "MASTER_ADDR": "10.0.0.2", "MASTER_PORT": "5"})
    assert (named.main_address, named.main_port) == ("10.0.0.2", 5)
