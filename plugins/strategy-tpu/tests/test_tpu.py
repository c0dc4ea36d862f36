"""What only a TPU can show; skipped without one."""

from __future__ import annotations

import pytest

from torchrelay_tpu.probe import CORES, PCI, found

pytestmark = [pytest.mark.tpu, pytest.mark.timeout(600)]

TPU = {"PJRT_DEVICE": "TPU"}
DEVICES = found({}, PCI).count

NEAR = 0.05
"""Products of matrices are of bfloat16 there, unless more is asked for."""


def chips():
    ids = (
        each.with_name("device").read_text().strip()
        for each in PCI.glob("*/vendor")
        if each.read_text().strip() == "0x1ae0"
    )
    return [each for each in ids if each in CORES]


def test_the_devices_that_are_found_are_those_that_xla_drives(programs):
    code = "import torch_xla; print(len(torch_xla.devices()))"
    done = programs.run("-c", code, **TPU)
    assert int(done.stdout.split()[-1]) == DEVICES


@pytest.mark.parametrize("strategy", ["single_tpu", "tpu_spmd", "tpu_fsdp", "tpu_spawn"])
def test_it_arrives_where_the_processor_does(programs, distance, strategy):
    name = "runs-single_device-cpu"
    (expected,) = programs.train("runs.py", "single_device", "cpu", "1", ranks=1, name=name)
    devices, name = 1 if strategy == "single_tpu" else DEVICES, f"runs-{strategy}-tpu"
    (there,) = programs.train("runs.py", strategy, "tpu", str(devices), ranks=1, name=name, **TPU)
    for case, run in there.items():
        assert run["steps"] == expected[case]["steps"], case
        assert distance(run["state"], expected[case]["state"]) <= NEAR, case


def test_a_chip_is_a_process_and_a_device_a_replica(programs):
    seats = programs.train(
        "seats.py", "tpu_spawn", str(DEVICES), ranks=DEVICES, name="seats", **TPU
    )
    assert len({(each["pid"], each["device"]) for each in seats}) == DEVICES
    assert len({each["pid"] for each in seats}) == len(chips())


def test_memory_is_told(programs):
    (seat,) = programs.train("seats.py", "single_tpu", "1", ranks=1, name="seats", **TPU)
    assert 0 < seat["memory"]["bytes_used"] < seat["memory"]["bytes_limit"]


def test_a_replica_s_error_is_the_run_s(programs):
    done = programs.run("mortal.py", "tpu_spawn", str(DEVICES - 1), str(DEVICES), **TPU)
    assert done.returncode not in (0, None)
    assert f"rank {DEVICES - 1} failed first" in done.stderr
    assert "ValueError: the reason itself" in done.stderr


def test_after_the_first_epoch_nothing_is_compiled(programs):
    (counts,) = programs.train("counted.py", "single_tpu", "1", ranks=1, name="counted", **TPU)
    assert [each["compilations"] for each in counts["fixed"]][1:] == [0, 0]
    assert counts["fixed"][1:] == counts["bare"][1:]
