from __future__ import annotations

import pytest

from torchrelay.environments.lsf import LSFEnvironment
from torchrelay.errors import LaunchError

HOSTS = ["batch5", *["h49n16"] * 4, *["h49n17"] * 4]
# Rank 6 of `jsrun --nrs 2 --tasks_per_rs 4`, from the launch node batch5.
RECORDED = {
    "JSM_NAMESPACE_LOCAL_RANK": "2",
    "JSM_NAMESPACE_LOCAL_SIZE": "4",
    "JSM_NAMESPACE_RANK": "6",
    "JSM_NAMESPACE_SIZE": "8",
    "LSB_HOSTS": " ".join(HOSTS),
    "LSB_JOBID": "1234567",
    "LSB_MCPU_HOSTS": "batch5 1 h49n16 4 h49n17 4",
}


@pytest.fixture(params=["variable", "file"])
def environ(request, tmp_path):
    if request.param == "variable":
        return RECORDED
    rankfile = tmp_path / "rankfile"
    rankfile.write_text("\n".join(HOSTS) + "\n")
    return {**RECORDED, "LSB_DJOB_RANKFILE": str(rankfile), "LSB_HOSTS": "elsewhere"}


def test_jsruns_variables_are_read(environ):
    assert LSFEnvironment.detect(environ)
    environment = LSFEnvironment(environ, hostname="h49n17.summit.example")
    assert environment.creates_processes
    assert environment.hosts == ("h49n16", "h49n17")
    assert (environment.global_rank, environment.local_rank, environment.node_rank) == (6, 2, 1)
    assert (environment.world_size, environment.local_world_size) == (8, 4)
    assert (environment.main_address, environment.main_port) == ("h49n16", 10567)
    environment.check(devices=4, num_nodes=2)
    with pytest.raises(LaunchError, match=r"lsf started 8; make them equal\. jsrun's options"):
        environment.check(devices=4, num_nodes=1)


def test_without_a_local_size_the_hosts_share_equally():
    environ = {name: value for name, value in RECORDED.items() if "LOCAL_SIZE" not in name}
    assert LSFEnvironment(environ, hostname="h49n16").local_world_size == 4


def test_a_job_of_one_host_has_no_launch_node():
    environment = LSFEnvironment({**RECORDED, "LSB_HOSTS": "a a"}, hostname="a")
    assert environment.hosts == ("a",)


def test_what_the_user_sets_wins():
    environment = LSFEnvironment({**RECORDED, "MASTER_ADDR": "10.1.1.1", "MASTER_PORT": "7777"})
    assert (environment.main_address, environment.main_port) == ("10.1.1.1", 7777)


@pytest.mark.parametrize("missing", ["LSB_JOBID", "LSB_HOSTS", "JSM_NAMESPACE_RANK"])
def test_it_needs_the_job_and_the_ranks(missing):
    assert not LSFEnvironment.detect({k: v for k, v in RECORDED.items() if k != missing})


def test_a_host_outside_the_list_is_refused():
    with pytest.raises(LaunchError, match=r"this host, login1, is not one of .*h49n16, h49n17"):
        _ = LSFEnvironment(RECORDED, hostname="login1").node_rank


def test_an_unreadable_list_is_refused(tmp_path):
    environment = LSFEnvironment({**RECORDED, "LSB_DJOB_RANKFILE": str(tmp_path / "none")})
    with pytest.raises(LaunchError, match=r"LSB_DJOB_RANKFILE=.*none: No such file"):
        _ = environment.hosts
    with pytest.raises(LaunchError, match="is empty"):
        _ = LSFEnvironment({**RECORDED, "LSB_HOSTS": ""}).hosts
