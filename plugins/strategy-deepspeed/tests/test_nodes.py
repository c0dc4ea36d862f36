"""Two machines train to the numbers of one process, and go on from what both have saved."""

from __future__ import annotations

import importlib.util
import json

import pytest

from torchrelay.testing.nodes import train_on

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("needs DeepSpeed", allow_module_level=True)

pytestmark = [pytest.mark.timeout(300), pytest.mark.nodes, pytest.mark.real_interpreters]


def at(stage, nodes=2, **more):
    small = {"stage": stage, "stage3_param_persistence_threshold": 0}
    return {
        "module": "Regression",
        "arguments": {"optimizer": "adamw"},
        "strategy": {"config": {"zero_optimization": small}},
        "trainer": {"num_nodes": nodes, "devices": 1},
        **more,
    }


TRAINED = {
    "stage 2": at(2, save="two"),
    "stage 3": at(3, save="three", do=["fit", "validate"]),
    "stage 2 resumed": at(2, resume="two"),
    "stage 3 resumed": at(3, resume="three"),
    "stage 3 from stage 2": at(3, resume="two"),
    "an alias": at(2, strategy="deepspeed_stage_2"),
}
REFUSED = {"three machines": at(3, nodes=3, refused=True)}


def test_two_nodes_equal_one_process(programs, nodes, distance):
    both, alone = programs.folder / "both.json", programs.folder / "alone.json"
    both.write_text(json.dumps({**TRAINED, **REFUSED}))
    alone.write_text(json.dumps({name: TRAINED[name] for name in ("stage 2", "stage 3")}))
    ranks = train_on(nodes, programs, "runs.py", "2", str(both), name="runs-2", limit=280)
    (one,) = programs.train("runs.py", "1", str(alone), ranks=1, name="runs-1")
    assert [rank["stage 2"]["rank"] for rank in ranks] == [0, 1]
    for rank in ranks:
        for name in TRAINED:
            assert rank[name]["steps"] == 14
            assert distance(rank[name]["state"], one["stage 2"]["state"]) <= 1e-5, name
            assert rank[name]["left"]["marks"] == []
        found, expected = (each["stage 3"]["metrics"]["val_loss"] for each in (rank, one))
        assert found == pytest.approx(expected, abs=1e-5)
        refused = rank["three machines"]
        assert "num_nodes=3 asks for 3 processes, but torchrun started 2" in refused["refused"]
        assert not refused["connected"]
