"""A run goes on where it was: under another strategy, and at another number of ranks."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.timeout(300)

HALF, WHOLE = 5, 12  # 7 batches an epoch: in the middle of the first, and of the second
KINDS = ("sgd", "momentum", "adam", "adamw")
STRATEGIES = {"horovod": "horovod", "ddp": "ddp", "single": "single_device"}


def link(kind, name, steps, **more):
    return {"strategy": STRATEGIES[name], "optimizer": kind, "steps": steps, **more}


def resumed(kind, start, name):
    return link(kind, name, WHOLE, **{"from": f"{kind}, {start}"})


ALONE = {
    **{f"{kind}, single": link(kind, "single", HALF) for kind in KINDS},
    **{f"{kind}, single whole": link(kind, "single", WHOLE) for kind in KINDS},
}
TOGETHER = {
    **{f"{kind}, horovod": link(kind, "horovod", HALF) for kind in KINDS},
    **{f"{kind}, horovod whole": link(kind, "horovod", WHOLE) for kind in KINDS},
    **{f"{kind}, horovod to horovod": resumed(kind, "horovod", "horovod") for kind in KINDS},
    **{f"{kind}, single to horovod": resumed(kind, "single", "horovod") for kind in KINDS},
    "adamw, ddp": link("adamw", "ddp", HALF),
    "adamw, ddp to horovod": resumed("adamw", "ddp", "horovod"),
    "adamw, horovod to ddp": resumed("adamw", "horovod", "ddp"),
}
FEWER = {f"{kind}, horovod to single": resumed(kind, "horovod", "single") for kind in KINDS}
MORE = {"adamw, horovod to four": resumed("adamw", "horovod", "horovod")}

GOING_ON = [name for name, each in {**TOGETHER, **FEWER, **MORE}.items() if "from" in each]


@pytest.fixture(scope="module")
def outcomes(shared):
    """What rank 0, and the others, arrived at in each link."""
    found = [{}, {}]
    for devices, links in ((1, ALONE), (2, TOGETHER), (1, FEWER), (4, MORE)):
        asked = shared.folder / f"links-{len(found[0])}.json"
        asked.write_text(json.dumps(links))
        horovodrun = str(Path(sysconfig.get_path("scripts")) / "horovodrun")
        launcher = (horovodrun, "-np", str(devices), "python", "-W", "error")
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
        assert mine.keys() == theirs.keys()
        for key in mine:
            if mine[key] is not None:
                largest = max(largest, float((mine[key] - theirs[key]).abs().max()))
    return largest


@pytest.mark.parametrize("name", GOING_ON)
def test_a_resumed_run_is_the_uninterrupted_one(outcomes, written, distance, name):
    expected = f"{name.partition(',')[0]}, single whole"
    for rank in outcomes:
        assert rank[name]["steps"] == WHOLE
        assert distance(rank[name]["state"], outcomes[0][expected]["state"]) <= 1e-12
    mine, theirs = written(name), written(expected)
    assert apart(mine["optimizer_states"][0], theirs["optimizer_states"][0]) <= 1e-12
    assert distance(mine["state_dict"], theirs["state_dict"]) <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_under_horovod_every_bit_is_the_same(written, distance, kind):
    mine, theirs = written(f"{kind}, horovod to horovod"), written(f"{kind}, horovod whole")
    assert distance(mine["state_dict"], theirs["state_dict"]) == 0
    assert apart(mine["optimizer_states"][0], theirs["optimizer_states"][0]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_a_run_is_not_the_whole(written, distance, kind):
    half, whole = written(f"{kind}, horovod"), written(f"{kind}, horovod whole")
    assert distance(half["state_dict"], whole["state_dict"]) > 1e-3


def test_state_goes_by_the_names_of_parameters(written):
    state = written("adamw, horovod")["optimizer_states"][0]["state"]
    assert set(state) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert {float(entry["step"]) for entry in state.values()} == {HALF}
