"""An update calls `finalize_gradients` where it does anything, and only there."""

from __future__ import annotations

import pytest

from torchrelay.precision import TruePrecision
from torchrelay.strategies import SingleDeviceStrategy, Strategy
from torchrelay.trainer.finalizing import has_to_finalize


class Finalizes(SingleDeviceStrategy):
    def finalize_gradients(self, optimizer):
        super().finalize_gradients(optimizer)


class Reduces(SingleDeviceStrategy):
    def reduce_gradients(self, optimizer):
        pass


class Scaled(TruePrecision):
    """A loss eight times what it should be, and so are its gradients until they are unscaled."""

    def backward(self, loss, run):
        run(8 * loss)

    def unscale(self, optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 8


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (SingleDeviceStrategy, False),
        (Finalizes, True),
        (Reduces, True),
        (lambda: SingleDeviceStrategy(precision_plugin=Scaled()), True),
    ],
)
def test_who_has_something_to_do_there(boring, make_trainer, monkeypatch, make, expected):
    strategy, called = make(), []
    monkeypatch.setattr(
        Strategy, "finalize_gradients", lambda self, optimizer: called.append(optimizer)
    )
    make_trainer(strategy=strategy).fit(boring.regression(), boring.loader())
    assert has_to_finalize(strategy) is expected
    assert len(called) == (5 if expected else 0)


def test_unscaled_gradients_are_what_the_optimizer_sees(boring, make_trainer):
    plain, scaled = boring.regression(), boring.regression()
    make_trainer().fit(plain, boring.loader())
    make_trainer(plugins=Scaled()).fit(scaled, boring.loader())
    # Eight is a power of two: nothing is rounded.
    assert boring.difference(boring.weights(plain), boring.weights(scaled)) == 0.0
