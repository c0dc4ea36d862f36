"""What the base class promises to those that override it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.precision import TruePrecision
from torchrelay.strategies import Clip, Plan, SingleDeviceStrategy


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


class Wide(TruePrecision):
    """What 32-true comes to under a backend that computes in 64 bits."""

    def __init__(self) -> None:
        super().__init__("64-true")
        self.name = "32-true"


class OwnFormats(SingleDeviceStrategy):
    """Has a form of its own for a precision, makes modules its own way, and asks what is planned."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def adapt_precision(self, precision):
        self.seen.append(precision.name)
        return Wide()

    def refusals(self, needs):
        self.seen.append(needs.plan)
        return super().refusals(needs)

    @contextmanager
    def init_context(self):
        self.seen.append("made")
        with super().init_context():
            yield


def test_a_backend_may_adapt_the_precision_and_make_modules_its_own_way(make_trainer, boring):
    class Late(boring.Regression):
        def configure_model(self):
            self.layer = torch.nn.Linear(1, 1)

    strategy, module = OwnFormats(), Late()
    trainer = make_trainer(strategy=strategy, accumulate_grad_batches=2, gradient_clip_val=0.5)
    assert type(strategy.precision_plugin) is Wide
    trainer.fit(module, boring.loader())
    plan = Plan(accumulate=2, loss_divisor=2, clip=Clip(0.5))
    assert strategy.seen[:2] == ["32-true", plan]
    assert strategy.seen[-1] == "made"
    assert module.layer.weight.dtype is torch.float64
