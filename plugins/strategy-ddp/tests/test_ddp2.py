"""DDP2 has what DDP has: options, a wrapper to override, local gradients while accumulating."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def outcomes(shared):
    """What one process arrived at, and what each of two machines did."""
    (alone,) = shared.train("ddp2.py", "1", ranks=1, name="ddp2-1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "two"}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    machines = [
        shared.start("ddp2.py", "2", RANK=rank, GROUP_RANK=rank, **common) for rank in ("0", "1")
    ]
    for machine in machines:
        out, err = machine.communicate(timeout=100)
        assert machine.returncode == 0, out + err
    return alone, *shared.results("ddp2-2")


def test_two_machines_that_accumulate_equal_one_process(outcomes, distance):
    alone, *machines = (outcome["accumulated"] for outcome in outcomes)
    for machine in machines:
        assert distance(machine["state"], alone["state"]) <= 1e-12


def test_gradients_stay_local_within_a_window(outcomes):
    # Of an epoch's 7 batches the 3rd, the 6th and the last end a window; 20 updates are 6 epochs and 2 windows.
    for outcome in outcomes[1:]:
        assert outcome["accumulated"]["local"] == 6 * 4 + 2 * 2


def test_options_reach_the_wrapper_and_the_process_group(outcomes, distance):
    alone, first, second = (outcome["compressed"] for outcome in outcomes)
    assert distance(first["state"], second["state"]) == 0
    assert 1e-6 < distance(first["state"], alone["state"]) <= 2e-3
    assert first["bucket_view"] is True
    assert outcomes[1]["accumulated"]["timeout"] == timedelta(seconds=41)
    assert first["timeout"] != timedelta(seconds=41)
