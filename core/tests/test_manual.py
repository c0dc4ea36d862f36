"""What a module may call in manual optimization; `trainer/test_manual_optimization.py` has the updates themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchrelay.errors import ConfigurationError
from torchrelay.precision import MixedPrecision


def two_optimizers(self):
    return [
        torch.optim.SGD(self.net[0].parameters(), lr=0.1),
        torch.optim.SGD([*self.net[3].parameters(), self.net[0].bias], lr=0.1),
    ]


def fitted(boring, make_trainer, training_step, **options):
    module = boring.regression(
        automatic_optimization=False,
        training_step=training_step,
        configure_optimizers=two_optimizers,
    )
    make_trainer(**options).fit(module, boring.loader(4))
    return module


def required(module):
    return {name: p.requires_grad for name, p in module.named_parameters()}


def test_only_the_toggled_optimizers_parameters_require_gradients(boring, make_trainer):
    seen = []

    def training_step(self, batch, batch_idx):
        self.net[3].bias.requires_grad_(False)
        one, other = self.optimizers()
        self.toggle_optimizer(other)
        seen.append(required(self))
        self.untoggle_optimizer(other)
        seen.append(required(self))
        with self.toggled_optimizer(one):
            seen.append(required(self))
            self.manual_backward(self.loss(batch))
            seen.append(self.net[3].weight.grad)

    fitted(boring, make_trainer, training_step)
    names = ["net.0.weight", "net.0.bias", "net.3.weight", "net.3.bias"]
    assert seen == [
        dict(zip(names, (False, True, True, False), strict=True)),
        dict(zip(names, (True, True, True, False), strict=True)),
        dict(zip(names, (True, True, False, False), strict=True)),
        None,
    ]


def test_an_exception_ends_toggling(boring, make_trainer):
    def training_step(self, batch, batch_idx):
        with pytest.raises(ZeroDivisionError), self.toggled_optimizer(self.optimizers()[0]):
            raise ZeroDivisionError
        assert all(required(self).values())

    fitted(boring, make_trainer, training_step)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda self, o: self.untoggle_optimizer(o), "untoggle_optimizer: no optimizer is toggled"),
        (
            lambda self, o: (self.toggle_optimizer(o), self.toggle_optimizer(o)),
            "toggle_optimizer: an optimizer is toggled already",
        ),
    ],
    ids=["untoggled", "twice"],
)
def test_toggling_out_of_order(boring, make_trainer, misuse, message):
    with pytest.raises(ConfigurationError, match=message):
        fitted(boring, make_trainer, lambda self, batch, i: misuse(self, self.optimizers()[0]))


def test_optimizers_as_they_are(boring, make_trainer):
    def training_step(self, batch, batch_idx):
        raw = self.optimizers(use_pl_optimizer=False)
        assert [type(optimizer) for optimizer in raw] == [torch.optim.SGD, torch.optim.SGD]
        assert [each.optimizer for each in self.optimizers()] == raw
        assert self.lr_schedulers() is None

    fitted(boring, make_trainer, training_step)


def test_backward_takes_arguments(boring, make_trainer):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.manual_backward(loss, retain_graph=True)
        once = self.net[0].weight.grad.clone()
        self.manual_backward(loss)
        torch.testing.assert_close(self.net[0].weight.grad, 2 * once)
        self.manual_backward(self.net(batch[0]), torch.ones(4, 1))
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            self.manual_backward(loss)

    fitted(boring, make_trainer, training_step)


@pytest.mark.parametrize("algorithm", ["norm", "value", None])
def test_clipping_by_hand(boring, make_trainer, algorithm):
    def training_step(self, batch, batch_idx):
        one, _ = self.optimizers()
        self.manual_backward(self.loss(batch))
        parameters = [self.net[0].weight, self.net[0].bias]
        expected = [p.grad.clone() for p in parameters]
        total = torch.linalg.vector_norm(torch.cat([g.flatten() for g in expected]))
        self.clip_gradients(one)
        assert torch.equal(parameters[0].grad, expected[0])  # no limit is given anywhere
        self.clip_gradients(one, 0.01, algorithm)
        for p, gradient in zip(parameters, expected, strict=True):
            clipped = (
                gradient.clamp(-0.01, 0.01) if algorithm == "value" else gradient * 0.01 / total
            )
            torch.testing.assert_close(p.grad, clipped, rtol=1e-4, atol=1e-7)

    fitted(boring, make_trainer, training_step)


def test_scaled_gradients_are_clipped_unscaled(boring, make_trainer):
    seen = []

    def training_step(self, batch, batch_idx):
        one, _ = self.optimizers()
        x, y = batch
        self.manual_backward(nn.functional.mse_loss(self(x).float(), y))
        self.clip_gradients(one, 1e6)
        seen.append(float(self.net[0].weight.grad.abs().max()))

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    fitted(boring, make_trainer, training_step, plugins=MixedPrecision("16-mixed", scaler=scaler))
    assert seen[0] < 100


def test_freezing(boring):
    module = boring.regression(dropout=0.5)
    module.freeze()
    assert not any(required(module).values())
    assert not module.training
    assert not module.net[2].training
    module.unfreeze()
    assert all(required(module).values())
    assert module.net[2].training
