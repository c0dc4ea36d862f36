"""Two machines train to the numbers of one process."""

from __future__ import annotations

import json

import pytest

from torchrelay.testing.nodes import train_on

pytestmark = [pytest.mark.timeout(150), pytest.mark.nodes, pytest.mark.real_interpreters]


def test_two_nodes_equal_one_process(programs, nodes, reference, distance):
    asked = [
        {"strategy": "ddp", "num_nodes": 2},
        {"strategy": "ddp2", "num_nodes": 2, "devices": 1},
        {"strategy": "ddp2"},
        {},
        {"strategy": "ddp", "num_nodes": 3},
        {"strategy": "ddp2", "devices": 2},
    ]
    seats = train_on(nodes, programs, "runs.py", *map(json.dumps, asked), name="runs", limit=120)
    # Which machine has rank 0 is for the agents to agree on.
    assert sorted(seat[0]["rank"] for seat in seats) == [0, 1]
    for *trained, three, two_cpus in seats:
        for ran in trained:
            assert (ran["world"], ran["local_rank"]) == (2, 0)
            assert ran["node"] == ran["rank"] == trained[0]["rank"]
            assert (ran["environment"], ran["launches"]) == ("torchrun", False)
            assert distance(ran["state"], reference) <= 1e-12
        kinds = [ran["strategy"] for ran in trained]
        assert kinds == ["DDPStrategy", "DDP2Strategy", "DDP2Strategy", "DDPStrategy"]
        assert "num_nodes=3 asks for 3 processes, but torchrun started 2" in three["refused"]
        assert "torch.nn.DataParallel replicates a module between GPUs only" in two_cpus["refused"]
        assert not three["connected"]
        assert not two_cpus["connected"]
