"""What the base class promises to those that override it."""

from __future__ import annotations

import pytest
import torch

from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.strategies import SingleDeviceStrategy


class Noting(SingleDeviceStrategy):
    capabilities = Capabilities(declared={Capability.PREDICTION: unsupported("it has no oracle")})

    def __init__(self) -> None:
        super().__init__()
        self.reduced = []

    def reduce_gradients(self, optimizer):
        self.reduced.append(optimizer)


@pytest.fixture
def strategy(make_trainer, boring):
    strategy = make_trainer(strategy=Noting()).strategy
    strategy.setup(boring.regression(), lambda m: ([torch.optim.SGD(m.parameters(), lr=0.1)], []))
    return strategy


def backward(strategy, boring):
    strategy.backward(strategy.module.loss(next(iter(boring.loader()))))


def test_gradients_are_reduced_once_after_a_backward(strategy, boring):
    [optimizer] = strategy.optimizers
    for expected in (1, 2):
        backward(strategy, boring)
        backward(strategy, boring)
        strategy.finalize_gradients(optimizer)
        strategy.finalize_gradients(optimizer)
        assert strategy.reduced == [optimizer] * expected


def test_each_optimizer_is_finalized(strategy, boring):
    [optimizer] = strategy.optimizers
    other = torch.optim.SGD(strategy.module.parameters(), lr=0.1)
    backward(strategy, boring)
    for each in (optimizer, other, optimizer):
        strategy.finalize_gradients(each)
    assert strategy.reduced == [optimizer, other]


def test_a_skipped_update_does_not_keep_gradients_local(strategy, boring):
    [optimizer] = strategy.optimizers
    backward(strategy, boring)
    strategy.finalize_gradients(optimizer)  # and no optimizer_step
    strategy.zero_grad(optimizer)
    backward(strategy, boring)
    strategy.finalize_gradients(optimizer)
    assert len(strategy.reduced) == 2


def test_require_refuses_what_is_declared(strategy):
    strategy.require(Capability.EVALUATION, "the test")
    with pytest.raises(
        UnsupportedError, match="the test needs predict; Noting refuses it: it has no oracle"
    ):
        strategy.require(Capability.PREDICTION, "the test")


@pytest.mark.parametrize("part", ["accelerator", "module", "model", "collectives", "checkpoint_io"])
def test_a_part_that_is_not_there_yet(part):
    with pytest.raises(ConfigurationError, match=f"the strategy's {part} is not there yet"):
        getattr(SingleDeviceStrategy(), part)


def test_state_can_be_had_after_teardown(strategy, boring):
    [optimizer] = strategy.optimizers
    backward(strategy, boring)
    strategy.optimizer_step(optimizer, lambda: None)
    strategy.teardown()
    assert strategy.model_state().keys() == dict(strategy.module.state_dict()).keys()
    assert strategy.optimizer_state(optimizer)["param_groups"][0]["params"][0] == "net.0.weight"
