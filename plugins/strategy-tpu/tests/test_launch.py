"""How replicas come into being, how they end, and which processes are refused."""

from __future__ import annotations

import sys

import pytest

from torchrelay import Trainer
from torchrelay.environments import TorchrunEnvironment
from torchrelay.errors import ConfigurationError, LaunchError, UnsupportedError

pytestmark = [pytest.mark.timeout(150), pytest.mark.real_interpreters]

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
    *("--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
)
QUIET = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}


def test_no_device_is_touched_before_the_launch(programs):
    ((before, said),) = programs.train("touched.py", ranks=1, name="touched")
    assert not before
    assert said.startswith("XLA has been used in this process")


def test_under_torchrun_nobody_trains_alone(programs):
    done = programs.run("mortal.py", "tpu_spawn", "0", launcher=TORCHRUN)
    assert done.returncode
    assert "each would take itself for the only one" in done.stderr
    assert "python" in done.stderr
    assert "mortal.py" in done.stderr


SAYS = {"RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}


@pytest.mark.parametrize("strategy", ["single_tpu", "tpu_spmd", "tpu_spawn"])
def test_processes_of_another_s_are_refused(strategy):
    environ = {name: str(value) for name, value in SAYS.items()}
    cluster = TorchrunEnvironment({**environ, "MASTER_PORT": "29500"})
    devices = 1 if strategy == "single_tpu" else 2
    with pytest.raises((UnsupportedError, LaunchError)) as raised:
        Trainer(strategy=strategy, accelerator="tpu", devices=devices, plugins=cluster, **QUIET)
    assert "would take itself for the only one" in str(raised.value)


def test_a_part_of_the_devices_is_refused(monkeypatch):
    monkeypatch.setenv("CPU_NUM_DEVICES", "4")
    with pytest.raises(UnsupportedError, match="take devices=4 or devices=1"):
        Trainer(strategy="tpu_spawn", accelerator="tpu", devices=2, **QUIET)


def test_spmd_divides_between_all_devices_or_is_refused():
    with pytest.raises(UnsupportedError, match="XLA divides between all 2 devices"):
        Trainer(strategy="tpu_spmd", accelerator="tpu", devices=1, **QUIET)


def test_spmd_may_be_on_before(programs):
    (seat,) = programs.train("seats.py", "tpu_spmd", "2", ranks=1, name="seats", XLA_USE_SPMD="1")
    assert seat["device"] == "xla:0"


def test_one_replica_is_refused_explanations_that_come_too_late():
    with pytest.raises(UnsupportedError, match="PT_XLA_DEBUG_LEVEL=2"):
        Trainer(strategy="tpu_spawn_debug", accelerator="tpu", devices=1, **QUIET)


def test_replicas_on_the_processor_are_refused_the_sums_that_it_has_not():
    options = {"strategy": "tpu_spawn", "accelerator": "tpu", "precision": "bf16-true", **QUIET}
    with pytest.raises(UnsupportedError, match="take bf16-mixed, or tpu_spmd"):
        Trainer(devices=2, **options)
    Trainer(devices=1, **options)


@pytest.mark.parametrize("precision", ["16-mixed", "64-true"])
def test_a_precision_that_tpus_have_not_is_refused(precision):
    with pytest.raises(ConfigurationError, match="32-true, bf16-true, bf16-mixed"):
        Trainer(strategy="single_tpu", accelerator="tpu", devices=1, precision=precision, **QUIET)
