"""A run goes on where it was, on the simulated device and elsewhere, whatever wrote the checkpoint."""

from __future__ import annotations

from functools import partial

import ipu_rules as rules
import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from torchrelay.testing.numerics_problems import Trained
from torchrelay_ipu import optimizers

pytestmark = pytest.mark.timeout(120)

HALF, WHOLE = 5, 12  # 7 batches an epoch: in the middle of the first, and of the second
KINDS = {
    "sgd": partial(SGD, lr=0.05),
    "momentum": partial(SGD, lr=0.05, momentum=0.9),
    "adam": partial(Adam, lr=0.02),
    "adamw": partial(AdamW, lr=0.02, weight_decay=0.1),
}
PLACES = {"ipu": rules.trainer, "single": rules.alone}


def run(place, kind, steps, path, start=None):
    """Train to a number of updates and leave a checkpoint there."""
    made = PLACES[place](max_epochs=2, max_steps=steps)
    made.fit(Trained(KINDS[kind]), rules.data(), ckpt_path=start)
    made.save_checkpoint(path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("first", "second"), [("ipu", "ipu"), ("ipu", "single"), ("single", "ipu")]
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, kind, first, second):
    half = tmp_path / "half.ckpt"
    run(first, kind, HALF, half)
    found = run(second, kind, WHOLE, tmp_path / "end.ckpt", str(half))
    expected = run("single", kind, WHOLE, tmp_path / "whole.ckpt")
    assert rules.apart(found["state_dict"], expected["state_dict"]) <= rules.NEAR
    mine, theirs = (each["optimizer_states"][0]["state"] for each in (found, expected))
    stated = {name for name, entry in theirs.items() if any(v is not None for v in entry.values())}
    assert set(mine) == stated
    for name in stated:
        # What momentum sums up is larger than the weights, and so is what was rounded off.
        largest = max(float(each.abs().max()) for each in theirs[name].values())
        assert rules.apart(mine[name], theirs[name]) <= rules.NEAR * max(1.0, largest)


def test_a_run_that_goes_on_at_a_smaller_last_batch_goes_on(tmp_path):
    batches = rules.resized(4, 4, 2)
    half = tmp_path / "half.ckpt"
    first = rules.trainer(max_epochs=2, max_steps=2)
    first.fit(Trained(KINDS["adam"]), batches)
    first.save_checkpoint(half)
    ends = []
    for place in PLACES.values():
        module = Trained(KINDS["adam"])
        place(max_epochs=2).fit(module, batches, ckpt_path=str(half))
        ends.append(dict(module.state_dict()))
    assert rules.apart(*ends) <= rules.NEAR


def test_half_of_a_run_is_not_the_whole(tmp_path):
    half, whole = (run("ipu", "adam", n, tmp_path / f"{n}.ckpt") for n in (HALF, WHOLE))
    assert rules.apart(half["state_dict"], whole["state_dict"]) > 1e-3


def test_a_checkpoint_has_the_device_s_random_state(tmp_path):
    assert "rng_state" in run("ipu", "sgd", HALF, tmp_path / "one.ckpt")["ipu"]


def test_a_state_that_the_device_does_not_take_is_told(monkeypatch):
    monkeypatch.setattr(optimizers, "_PATHS", ("elsewhere.{}",))
    with rules.refused(optimizers.CheckpointError, "Accl1___module.weight", "begin anew"):
        rules.loaded_optimizer_state_reaches_the_device()


def test_a_state_of_which_the_device_takes_a_part_is_told(tmp_path, monkeypatch):
    half = tmp_path / "half.ckpt"
    run("ipu", "adam", HALF, half)
    whole = optimizers.to_device

    def renamed(optimizer, state, names):
        first = optimizer.param_groups[0]["params"][0]
        return whole(optimizer, state, {**names, first: "strange"})

    monkeypatch.setattr(optimizers, "to_device", renamed)
    with rules.refused(optimizers.CheckpointError, "strange'", "3 of 12 tensors", "begin anew"):
        run("ipu", "adam", WHOLE, tmp_path / "end.ckpt", str(half))


def test_the_longest_name_is_a_tensor_s():
    known = {"weight": 0, "layer.weight": 1}
    assert optimizers._ending("model.module.layer.weight", known) == "layer.weight"
    with rules.refused(optimizers.CheckpointError, "'strange'"):
        optimizers._ending("strange", known)
