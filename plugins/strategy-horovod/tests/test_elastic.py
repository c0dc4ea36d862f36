"""Elastic jobs: a rank is killed and the others go on from the last commit; a host comes and takes part."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from argparse import Namespace
from pathlib import Path

import pytest

from torchrelay.errors import CheckpointError, ConfigurationError
from torchrelay_horovod import ElasticCommit, vendor
from torchrelay_horovod.elastic import Commits
from torchrelay_horovod.run import missing

pytestmark = pytest.mark.timeout(150)

SCRIPTS = Path(sysconfig.get_path("scripts"))
PYTHON = ("python", "-W", "error")
HOSTS = ("-H", "localhost:1,127.0.0.1:1")
HOROVODRUN = (str(SCRIPTS / "horovodrun"), "-np", "2", "--min-np", "1", "--max-np", "2")
OURS = (str(SCRIPTS / "torchrelay-horovod"), "run", "--min-np", "1", "--max-np", "2")


@pytest.mark.parametrize(
    "launcher", [(*HOROVODRUN, *HOSTS), (*OURS, "-np", "2")], ids=["horovodrun", "ours"]
)
def test_the_others_go_on_from_the_last_commit_when_a_rank_is_killed(programs, distance, launcher):
    done = programs.run("elastic.py", "dies", launcher=(*launcher, *PYTHON))
    assert done.returncode == 0, done.stderr
    assert "going on from the last commit" in done.stderr
    (survivor,) = programs.results("elastic-localhost", 1)
    assert not (programs.folder / "elastic-127.0.0.1-0.pt").exists()
    # Killed when it was to make the sixth update; four had been committed.
    worlds = survivor["worlds"]
    assert worlds[:6] == [(step, 2) for step in range(6)]
    assert worlds[6:] == [(4 + i, 1) for i in range(len(worlds) - 6)]
    (alone,) = programs.train("goes_on.py", "commit-4.ckpt", ranks=1, name="alone")
    assert survivor["steps"] == alone["steps"] == 4 + 6 + 14 + 14
    assert survivor["epoch"] == 3
    assert distance(survivor["state"], alone["state"]) <= 1e-12


def test_a_host_that_comes_takes_part(programs, distance):
    hosts, script = programs.folder / "hosts", programs.folder / "discover.sh"
    hosts.write_text("localhost:1\n")
    script.write_text(f"#!/bin/sh\ncat {hosts}\n")
    script.chmod(0o755)
    done = programs.run(
        "elastic.py",
        "grows",
        launcher=(*OURS, "-np", "1", "--host-discovery-script", str(script), *PYTHON),
    )
    assert done.returncode == 0, done.stderr
    (first,), (joined,) = (
        programs.results(f"elastic-{host}", 1) for host in ("localhost", "127.0.0.1")
    )
    assert {size for _, size in first["worlds"]} == {1, 2}
    assert {size for _, size in joined["worlds"]} == {2}
    # Who joins goes on from where the others are, with their weights.
    assert joined["worlds"][0][0] == first["worlds"][-1][0] > 2
    assert joined["steps"] == first["steps"]
    assert distance(first["state"], joined["state"]) == 0


def test_nothing_committed_is_said(programs):
    done = programs.run("elastic.py", "dies early", launcher=(*HOROVODRUN, *HOSTS, *PYTHON))
    assert done.returncode
    assert "there is no commit to go on from" in done.stderr
    assert "ElasticCommit" in done.stderr


def test_one_host_without_an_interface_does_not_hang(programs):
    """By itself horovodrun waits for a second host, to find an interface that both have."""
    script = programs.folder / "discover.sh"
    script.write_text("#!/bin/sh\necho localhost:2\n")
    script.chmod(0o755)
    discovery = ("-np", "2", "--host-discovery-script", str(script))
    done = programs.run("elastic.py", "stays", launcher=(*OURS, *discovery, *PYTHON))
    assert done.returncode == 0, done.stderr
    (facts,) = programs.results("elastic-localhost", 1)
    assert {size for _, size in facts["worlds"]} == {2}
    bare = programs.start("elastic.py", "stays", launcher=(*HOROVODRUN, *discovery[2:], *PYTHON))
    with pytest.raises(subprocess.TimeoutExpired):
        bare.wait(15)


# --- what `torchrelay-horovod run` adds -----------------------------------------------------------------


def asked(**more):
    """What horovodrun makes of its arguments."""
    none = dict.fromkeys(
        ("min_num_proc", "max_num_proc", "host_discovery_script", "hosts", "hostfile", "nics")
    )
    return Namespace(**{**none, "num_proc": 2, "slots": None, **more})


@pytest.fixture
def here(monkeypatch):
    """Names of this machine."""
    names = {"localhost", "127.0.0.1"}
    monkeypatch.setattr(vendor, "is_local", lambda hosts: set(hosts) <= names)
    monkeypatch.setattr(vendor, "loopback", lambda: "lo")


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        ({}, []),
        ({"hosts": "localhost:2"}, []),
        ({"min_num_proc": 1}, ["--hosts", "localhost:1,127.0.0.1:1", "--network-interfaces", "lo"]),
        (
            {"min_num_proc": 1, "max_num_proc": 5},
            ["--hosts", "localhost:3,127.0.0.1:2", "--network-interfaces", "lo"],
        ),
        (
            {"min_num_proc": 1, "hosts": "localhost:1,127.0.0.1:1"},
            ["--network-interfaces", "lo"],
        ),
        ({"min_num_proc": 1, "hosts": "localhost:1,127.0.0.1:1", "nics": {"lo"}}, []),
        ({"min_num_proc": 1, "hosts": "a:1,b:1"}, []),
    ],
)
def test_only_elastic_jobs_on_one_machine_lack_something(here, arguments, added):
    assert missing(asked(**arguments)) == added


def test_one_host_that_is_given_up_is_refused(here):
    with pytest.raises(ConfigurationError, match=r"--hosts localhost:1,127\.0\.0\.1:1"):
        missing(asked(min_num_proc=1, hosts="localhost:2"))


def test_one_host_that_is_far_away_needs_an_interface(here, monkeypatch):
    monkeypatch.setattr(vendor, "discover", lambda script, slots: ["far"])
    with pytest.raises(ConfigurationError, match="there is only far: it would wait"):
        missing(asked(host_discovery_script="x"))


# --- commits --------------------------------------------------------------------------------------------


def commit(world_size, **fit):
    return {"torchrelay": {"world_size": world_size}, "loops": {"fit": fit}}


@pytest.mark.parametrize(
    ("before", "now", "batch", "place"), [(2, 1, 4, 8), (1, 2, 5, 2), (2, 3, 3, 2), (2, 2, 3, 3)]
)
def test_another_number_of_ranks_goes_on_at_the_same_sample(before, now, batch, place):
    commits = Commits()
    commits.keep(commit(before, batch=batch, of=7))
    fit = commits.copy(now)["loops"]["fit"]
    assert fit == {"batch": place, "of": 7 if before == now else None}
    assert commits.last == commit(before, batch=batch, of=7)


def test_there_is_something_to_recover_only_after_a_commit():
    commits = Commits()
    assert not commits.recover()
    with pytest.raises(CheckpointError, match="no commit"):
        commits.copy(1)
    commits.keep(commit(1, batch=0))
    assert commits.recover()
    assert commits.recovering
    commits.begin()
    assert not commits.recovering
    assert not commits.recover()


@pytest.mark.parametrize("every", [0, -1, 1.5, "x"])
def test_commits_come_after_a_whole_number_of_updates(every):
    with pytest.raises(ConfigurationError, match="every_n_train_steps"):
        ElasticCommit(every)


def test_help_is_horovodrun_s():
    command = [str(SCRIPTS / "torchrelay-horovod"), "run", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert "--min-np" in done.stdout
    assert sys.executable
