"""What local SGD promises: the paper's updates, exact resumption, and checkpoints for everybody."""

from __future__ import annotations

import runpy

import pytest
import torch
from acme_local_sgd import LocalSGDStrategy
from conftest import SCRIPT
from torch.nn.functional import mse_loss

from torchrelay import Trainer
from torchrelay.errors import ConfigurationError, TorchrelayError

pytestmark = pytest.mark.timeout(120)


def by_hand(
    period: int, steps: int, monkeypatch, tmp_path
) -> tuple[list[list[float]], list[float]]:
    """Two ranks' weights after so many updates, and their mean: algorithm 1 of the paper, in one process."""
    monkeypatch.setenv("OUT", str(tmp_path))
    program = runpy.run_path(str(SCRIPT))
    models = [program["Line"]() for _ in range(2)]
    optimizers = [model.configure_optimizers() for model in models]
    x, y = program["data"]().tensors
    for step in range(steps):
        for rank, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            # A distributed sampler deals samples out in turns, and an epoch has 6 batches of 4.
            first = 8 * (step % 6) + rank
            mine = slice(first, first + 8, 2)
            optimizer.zero_grad()
            mse_loss(model.layer(x[mine]), y[mine]).backward()
            optimizer.step()
        if (step + 1) % period == 0:
            with torch.no_grad():
                for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
                    mean = (one + other) / 2
                    one.copy_(mean)
                    other.copy_(mean)
    own = [model.layer.weight.flatten().tolist() for model in models]
    return own, ((torch.tensor(own[0]) + torch.tensor(own[1])) / 2).tolist()


def test_weights_are_averaged_every_period(train, monkeypatch, tmp_path):
    ranks = train(period=4)
    own, mean = by_hand(4, 10, monkeypatch, tmp_path)
    for rank, left in enumerate(ranks):
        assert left["own"] == pytest.approx(own[rank], abs=1e-12)
        assert left["end"] == pytest.approx(mean, abs=1e-7)
    assert ranks[0]["own"] != ranks[1]["own"]
    assert ranks[0]["end"] == ranks[1]["end"]


def test_validation_is_that_of_the_mean(train):
    one, other = train(period=4, max_steps=6)
    assert one["validated"] == other["validated"] == pytest.approx(one["end"], abs=1e-12)
    assert one["own"] != other["own"]


def test_a_period_of_one_equals_one_process(train):
    ranks = train(period=1, momentum=0.9)
    (alone,) = train(strategy="single_device", ranks=1, momentum=0.9)
    for left in ranks:
        assert left["end"] == pytest.approx(alone["end"], abs=1e-12)


def test_a_resumed_run_equals_one_that_never_stopped(train):
    # 7 is inside a period, and inside an epoch; momentum is each rank's own.
    never = train(period=4, momentum=0.9, keep=7)
    resumed = train(period=4, momentum=0.9, resume="kept.ckpt")
    assert [left["steps"] for left in resumed] == [10, 10]
    for before, after in zip(never, resumed, strict=True):
        assert after["own"] == before["own"]
        assert after["end"] == before["end"]


def test_another_strategy_and_another_number_of_ranks_go_on_from_the_mean(train):
    train(period=4, momentum=0.9, keep=6)
    (alone,) = train(strategy="single_device", ranks=1, resume="kept.ckpt", momentum=0.9)
    three = train(period=4, ranks=3, resume="kept.ckpt", momentum=0.9)
    assert alone["steps"] == three[0]["steps"] == 10


def test_aliases(train):
    (one, other) = train(strategy="local_sgd_spawn", max_steps=1)
    assert (one["strategy"], one["period"], other["world"]) == ("LocalSGDStrategy", 8, 2)
    left = train(strategy="local_sgd_sim", accelerator="auto", max_steps=1)[1]
    assert (left["accelerator"], left["period"], left["world"]) == ("acme_sim", 16, 2)


@pytest.mark.parametrize("options", [{"period": 0}, {"period": 1.5}, {"start_method": "thread"}])
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigurationError):
        LocalSGDStrategy(**options)


def test_the_alias_of_the_device_is_only_for_it():
    with pytest.raises(TorchrelayError, match="acme_sim"):
        Trainer(strategy="local_sgd_sim", accelerator="cpu", devices=2, logger=False)
