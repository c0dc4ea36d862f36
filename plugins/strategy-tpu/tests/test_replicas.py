"""Two replicas on XLA:CPU with test equipment; the kit only where TORCHRELAY_TPU_REPLICAS is set.

XLA:CPU has no sum of bfloat16 between replicas, which some of the kit's programs need.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject

pytestmark = pytest.mark.timeout(300)

kit = pytest.mark.skipif(
    not os.environ.get("TORCHRELAY_TPU_REPLICAS"),
    reason="the kit does not pass as a whole: XLA:CPU has no sum of bfloat16 between replicas",
)

SITE = str(Path(__file__).with_name("equipment") / "site")
EQUIPMENT = {"PYTHONPATH": SITE, "XLA_ENABLE_PARAM_ALIASING": "0"}
SUBJECT = Subject("tpu_spawn", devices=2, accelerator="tpu", python_path=(SITE,))

CASES = ("sgd", "adamw", "accumulated, clipped", "clipped by value", "ragged")


@kit
class TestBasic(BasicTier):
    subject = SUBJECT


@kit
class TestCapabilities(CapabilityTier):
    subject = SUBJECT


@pytest.fixture(scope="module")
def outcomes(shared):
    """What the processor and two replicas arrive at."""
    name = "runs-single_device-cpu"
    (alone,) = shared.train("runs.py", "single_device", "cpu", "1", ranks=1, name=name)
    name = "runs-tpu_spawn-tpu"
    # XLA:CPU cannot sum it between replicas, and threads share torch's default format.
    command = ("runs.py", "tpu_spawn", "tpu", "2", "bf16-true")
    (both,) = shared.train(*command, ranks=1, name=name, **EQUIPMENT)
    return alone, both


@pytest.mark.parametrize("case", CASES)
def test_replicas_arrive_where_the_processor_does(outcomes, distance, case):
    alone, both = outcomes
    assert both[case]["steps"] == alone[case]["steps"]
    assert distance(both[case]["state"], alone[case]["state"]) <= 5e-6


@pytest.mark.parametrize("rank", [0, 1])
def test_a_replica_s_error_is_the_run_s(programs, rank):
    done = programs.run("mortal.py", "tpu_spawn", str(rank), **EQUIPMENT)
    assert done.returncode not in (0, None)
    assert f"rank {rank} failed first" in done.stderr
    assert "ValueError: the reason itself" in done.stderr
    assert "BrokenProcessPool" not in done.stderr
