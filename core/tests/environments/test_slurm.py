from __future__ import annotations

import pytest

from torchrelay.environments.slurm import SLURMEnvironment, expand_counts, first_host
from torchrelay.errors import LaunchError

# What sbatch gives its script: --nodes=2 --ntasks-per-node=2.
BATCH = {
    "SLURM_CLUSTER_NAME": "alps",
    "SLURM_GTIDS": "0",
    "SLURM_JOB_ID": "4217093",
    "SLURM_JOB_NAME": "train",
    "SLURM_JOB_NODELIST": "nid[001203,001207]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "nid[001203,001207]",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "0",
    "SLURM_TASKS_PER_NODE": "2(x2)",
}
# What srun in that script gives the third of its four tasks.
TASK = {
    **BATCH,
    "SLURM_GTIDS": "2,3",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.3.17",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "2",
    "SLURM_SRUN_COMM_HOST": "10.0.3.17",
    "SLURM_STEPID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "nid[001203,001207]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
# The shell of `salloc --nodes=2 --ntasks-per-node=2`, an interactive step.
SHELL = {
    **BATCH,
    "SLURM_JOB_NAME": "interactive",
    "SLURM_STEP_ID": "4294967290",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}


def test_a_task_of_srun():
    assert SLURMEnvironment.detect(TASK)
    environment = SLURMEnvironment(TASK)
    assert environment.creates_processes
    assert not environment.store_is_hosted
    assert (environment.global_rank, environment.local_rank, environment.node_rank) == (2, 0, 1)
    assert (environment.world_size, environment.local_world_size) == (4, 2)
    assert (environment.main_address, environment.main_port) == ("nid001203", 22093)
    assert environment.restart_count == 0
    environment.check(devices=2, num_nodes=2)


def test_what_the_user_sets_wins():
    given = {"MASTER_ADDR": "10.1.1.1", "MASTER_PORT": "12345", "SLURM_RESTART_COUNT": "2"}
    environment = SLURMEnvironment({**TASK, **given})
    assert (environment.main_address, environment.main_port) == ("10.1.1.1", 12345)
    assert environment.restart_count == 2
    assert SLURMEnvironment({**TASK, "SLURM_STEP_RESV_PORTS": "13200-13203"}).main_port == 13200


def test_a_batch_script_without_srun_is_told_to_use_it():
    assert SLURMEnvironment.detect(BATCH)
    with pytest.raises(LaunchError, match="`srun --nodes=2 --ntasks-per-node=2 python"):
        SLURMEnvironment(BATCH).check(devices=2, num_nodes=2)


@pytest.mark.parametrize(
    "environ",
    [
        SHELL,
        {**TASK, "SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
        {**BATCH, "SLURM_NTASKS": "1"},
        {name: value for name, value in BATCH.items() if name != "SLURM_NTASKS"},
        {name: value for name, value in TASK.items() if name != "SLURM_PROCID"},
        {},
    ],
    ids=[
        "salloc's shell",
        "srun --pty bash",
        "one batch process",
        "no ntasks",
        "no rank",
        "no job",
    ],
)
def test_where_torchrelay_may_launch_it_is_not_recognised(environ):
    assert not SLURMEnvironment.detect(environ)


def test_srun_inside_sallocs_shell_is_recognised():
    assert SLURMEnvironment.detect({**TASK, "SLURM_JOB_NAME": "interactive"})


@pytest.mark.parametrize(("devices", "nodes"), [(4, 1), (1, 4), (2, 1), (2, 4), (4, 2)])
def test_another_layout_is_refused(devices, nodes):
    with pytest.raises(LaunchError, match=f"--nodes={nodes} --ntasks-per-node={devices}"):
        SLURMEnvironment(TASK).check(devices=devices, num_nodes=nodes)


def test_unequal_nodes_are_refused():
    uneven = {**TASK, "SLURM_STEP_TASKS_PER_NODE": "3,1"}
    with pytest.raises(LaunchError, match="SLURM started 3, 1 on 2"):
        SLURMEnvironment(uneven).check(devices=2, num_nodes=2)


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("node[003-005,7],other", "node003"),
        ("other,node[003-005]", "other"),
        ("node7", "node7"),
        ("n[2,4-6]", "n2"),
        ("rack[0-1]node[00-31]", "rack0node00"),
        ("gpu-a[1-2]-ib,x", "gpu-a1-ib"),
    ],
)
def test_the_first_host_of_a_node_list(nodelist, first):
    assert first_host(nodelist) == first


def test_tasks_per_node_are_written_out():
    assert expand_counts("2(x3),1") == (2, 2, 2, 1)
    assert expand_counts("4") == (4,)
    with pytest.raises(LaunchError, match="2x3"):
        expand_counts("2x3")
