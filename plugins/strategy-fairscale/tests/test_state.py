"""A run goes on where it was: under another strategy, and at another number of ranks."""

from __future__ import annotations

import json
import sys

import pytest
import torch

pytestmark = pytest.mark.timeout(300)

HALF, WHOLE = 5, 12  # 7 batches an epoch: in the middle of the first, and of the second

STRATEGIES = {
    "oss": "ddp_sharded",
    "fully": {},
    "units": {"min_num_params": 50},
    "apart": {"flatten_parameters": False},
}
OTHERS = {"single": "single_device", "ddp": "ddp"}
ALL = {**STRATEGIES, **OTHERS}

TIED = {"module": "Tied", "arguments": {}}


def half(name, **more):
    return {"strategy": ALL[name], "steps": HALF, **more}


def whole(name, **more):
    return {"strategy": ALL[name], "steps": WHOLE, **more}


def resumed(start, name, **more):
    return whole(name, **{"from": start}, **more)


ALONE = {
    "single": half("single"),
    "single whole": whole("single"),
    "tied whole": whole("single", **TIED),
}

UNUSED = {"module": "Unused", "arguments": {"every": 3, "optimizer": "adamw"}}
WITH_UNUSED = {"sharded": {"find_unused_parameters": True}}

TOGETHER = {
    "ddp": half("ddp"),
    **{name: half(name) for name in STRATEGIES},
    **{f"{name} whole": whole(name) for name in STRATEGIES},
    **{f"single to {name}": resumed("single", name) for name in STRATEGIES},
    **{f"ddp to {name}": resumed("ddp", name) for name in STRATEGIES},
    **{f"{name} to ddp": resumed(name, "ddp") for name in STRATEGIES},
    **{f"{one} to {other}": resumed(one, other) for one in STRATEGIES for other in STRATEGIES},
    "tied units": half("fully", **TIED),
    "tied to oss": resumed("tied units", "oss", **TIED),
    "grouped": half("oss", module="Grouped"),
    "grouped to apart": resumed("grouped", "apart", module="Grouped"),
    "grouped whole": whole("oss", module="Grouped"),
    "layers": half("units", module="ByLayer"),
    "layers to oss": resumed("layers", "oss", module="ByLayer"),
    "layers whole": whole("oss", module="ByLayer"),
    "uneven": {**half("oss"), "strategy": WITH_UNUSED, **UNUSED},
    "uneven to fully": resumed("uneven", "fully", **UNUSED),
    "wrong for oss": resumed("tied units", "oss", refused=True),
    "wrong for units": resumed("tied units", "units", refused=True),
}
FEWER = {
    **{f"{name} to single": resumed(name, "single") for name in STRATEGIES},
    "oss to one of oss": resumed("oss", "oss"),
    "units to one of units": resumed("units", "units"),
}
MORE = {
    "oss to four of oss": resumed("oss", "oss"),
    "oss to four of units": resumed("oss", "units"),
    "units to four of units": resumed("units", "units"),
}
EXPECTED = {
    "tied to oss": "tied whole",
    "grouped to apart": "grouped whole",
    "layers to oss": "layers whole",
}
"""The uninterrupted run, where it is not one process's."""

GOING_ON = [n for n, link in {**TOGETHER, **FEWER, **MORE}.items() if "from" in link]
GOING_ON = [n for n in GOING_ON if "wrong" not in n and "uneven" not in n]


@pytest.fixture(scope="module")
def outcomes(shared):
    """What rank 0, and the others, arrived at in each link."""
    found = [{}, {}]
    for devices, links in ((1, ALONE), (2, TOGETHER), (1, FEWER), (4, MORE)):
        asked = shared.folder / f"links-{len(found[0])}.json"
        asked.write_text(json.dumps(links))
        launcher = (
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--local-addr", "127.0.0.1", "--nproc-per-node", str(devices)),
        )
        process = shared.start(
            "states.py", str(devices), str(asked), launcher=launcher if devices > 1 else ()
        )
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, out[-3000:] + err[-6000:]
        ranks = shared.results(f"states-{devices}", devices)
        found[0] |= ranks[0]
        found[1] |= ranks[-1]
    return found


@pytest.fixture(scope="module")
def written(outcomes, shared):
    """The checkpoint that a link has written."""
    return lambda name: torch.load(shared.folder / f"{name}.ckpt", weights_only=True)


def apart(one, other):
    """The largest difference between two optimizers' states, whose names must be the same."""
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    largest = 0.0
    for name, mine in one["state"].items():
        theirs = other["state"][name]
        assert mine.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key in mine:
            assert mine[key].shape == theirs[key].shape
            largest = max(largest, float((mine[key] - theirs[key]).abs().max()))
    return largest


@pytest.mark.parametrize("name", GOING_ON)
def test_a_resumed_run_is_the_uninterrupted_one(outcomes, written, distance, name):
    expected = EXPECTED.get(name, "single whole")
    for rank in outcomes:
        assert rank[name]["steps"] == WHOLE
        assert distance(rank[name]["state"], outcomes[0][expected]["state"]) <= 1e-6
    mine, theirs = written(name), written(expected)
    assert apart(mine["optimizer_states"][0], theirs["optimizer_states"][0]) <= 1e-6
    assert distance(mine["state_dict"], theirs["state_dict"]) <= 1e-6


@pytest.mark.parametrize("name", STRATEGIES)
def test_under_the_same_strategy_every_bit_is_the_same(outcomes, written, distance, name):
    mine, theirs = written(f"{name} to {name}"), written(f"{name} whole")
    assert distance(mine["state_dict"], theirs["state_dict"]) == 0
    assert apart(mine["optimizer_states"][0], theirs["optimizer_states"][0]) == 0
    assert distance(outcomes[0][f"{name} to {name}"]["state"], theirs["state_dict"]) == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_half_of_a_run_is_not_the_whole(written, distance, name):
    assert distance(written(name)["state_dict"], written(f"{name} whole")["state_dict"]) > 1e-3
    assert {float(e["step"]) for e in written(name)["optimizer_states"][0]["state"].values()} == {5}


def test_other_numbers_of_steps_in_one_shard_are_told(outcomes):
    for rank in outcomes:
        (told,) = rank["uneven to fully"]["told"]
        assert "parameters of 2 and of 5 for 'step'" in told
    assert not outcomes[0]["oss to fully"]["told"]


@pytest.mark.parametrize("name", ["wrong for oss", "wrong for units"])
def test_another_model_s_checkpoint_is_refused(outcomes, name):
    for rank in outcomes:
        assert "the checkpoint does not fit Regression" in rank[name]["refused"]
        assert "embed.weight" in rank[name]["refused"]
        assert "module.embed" not in rank[name]["refused"]
        assert "\n" not in rank[name]["refused"]
