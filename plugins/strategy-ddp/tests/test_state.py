"""A run goes on where it was, under another strategy and at another world size too."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch

from torchrelay.checkpoint import TorchCheckpointIO

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def outcomes(shared):
    """What each task of state.py arrived at; of two processes, rank 0's and rank 1's."""
    alone = shared.train("state.py", "1", "whole", "half", ranks=1, name="state-1")[0]
    tasks = ("whole", "half", "from-2", "from-1", "noisy-whole", "noisy-half", "noisy-from-2")
    ranks = shared.train("state.py", "2", *tasks, name="state-2")
    resumed = shared.train("state.py", "1", "from-2", ranks=1, name="state-1")[0]
    return {**alone, **resumed}, *ranks


def same_optimizer(one, other, tolerance):
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    assert set(one["state"]) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    for name, mine in one["state"].items():
        theirs = other["state"][name]
        assert mine.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key in mine:
            torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("here", "task"),
    [("alone", "from-2"), ("together", "from-1"), ("together", "from-2")],
    ids=["ddp then single_device", "single_device then ddp", "ddp then ddp"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(outcomes, distance, here, task):
    alone, first, second = outcomes
    whole = alone["whole"]
    assert whole["steps"] == 28
    for outcome in [alone] if here == "alone" else [first, second]:
        resumed = outcome[task]
        assert (resumed["steps"], resumed["epochs"], resumed["lr"]) == (28, 4, whole["lr"])
        assert distance(resumed["state"], whole["state"]) <= 1e-12
        same_optimizer(resumed["optimizer"], whole["optimizer"], 1e-12)


def test_the_first_half_alone_is_not_enough(outcomes, distance):
    alone = outcomes[0]
    assert alone["half"]["steps"] == 14
    assert distance(alone["half"]["state"], alone["whole"]["state"]) > 1e-3


def test_at_the_same_world_size_every_bit_is_the_same(outcomes, distance):
    # Shuffled data, dropout that differs between ranks, and an interruption in the middle of an epoch.
    for rank in outcomes[1:]:
        whole, resumed = rank["noisy-whole"], rank["noisy-from-2"]
        assert rank["noisy-half"]["steps"] == 10
        assert resumed["steps"] == whole["steps"] == 28
        assert distance(resumed["state"], whole["state"]) == 0
        same_optimizer(resumed["optimizer"], whole["optimizer"], 0)
        assert distance(whole["state"], rank["whole"]["state"]) > 1e-3


def test_the_manifest_tells_who_wrote_the_checkpoint(outcomes, shared):
    written = {
        n: TorchCheckpointIO().load_checkpoint(shared.folder / f"half-{n}.ckpt") for n in (1, 2)
    }
    manifest = written[2]["torchrelay"]
    assert (manifest["strategy"], manifest["alias"]) == ("DDPStrategy", "ddp")
    assert manifest["distribution"] == "torchrelay-ddp"
    assert manifest["distribution_version"] == version("torchrelay-ddp")
    assert manifest["world_size"] == 2
    assert written[1]["torchrelay"]["alias"] == "single_device"
    assert written[1]["torchrelay"]["world_size"] == 1


def test_a_checkpoint_has_one_form_whatever_wrote_it(outcomes, shared):
    one, two = (
        TorchCheckpointIO().load_checkpoint(shared.folder / f"half-{n}.ckpt") for n in (1, 2)
    )
    assert one.keys() == two.keys()
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for mine, theirs in zip(one["optimizer_states"], two["optimizer_states"], strict=True):
        assert mine["state"].keys() == theirs["state"].keys()
        assert mine["param_groups"] == theirs["param_groups"]
    assert (len(one["rng"]["ranks"]), len(two["rng"]["ranks"])) == (1, 2)


@pytest.mark.parametrize("kind", ["shuffled", "workers", "stream", "together"])
def test_loaders_that_keep_their_place_go_on_from_it(programs, distance, kind):
    ranks = [rank[kind] for rank in programs.train("stateful.py", kind, name="stateful")]
    for rank in ranks:
        whole = rank.pop("whole")
        assert whole["steps"] == 15
        for at, resumed in rank.items():
            assert resumed["seen"] == whole["seen"][at:]
            assert distance(resumed["state"], whole["state"]) == 0
    file = torch.load(programs.folder / kind / "step=2.ckpt", weights_only=True)
    assert len(file["loaders"]["ranks"]) == 2
