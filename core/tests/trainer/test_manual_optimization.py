"""Manual optimization: training_step makes the updates, through the strategy."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from torchrelay.errors import UserError
from torchrelay.precision import MixedPrecision


def two_optimizers(self):
    one = torch.optim.SGD(self.net[0].parameters(), lr=0.05, momentum=0.9)
    other = torch.optim.AdamW(self.net[3].parameters(), lr=0.01)
    return [one, other], [ExponentialLR(one, 0.9)]


def alternate(self, batch, batch_idx):
    """One optimizer in each batch, the other in every second."""
    one, other = self.optimizers()
    loss = self.loss(batch)
    one.zero_grad()
    other.zero_grad()
    self.manual_backward(loss)
    one.step()
    if batch_idx % 2:
        other.step()
    if self.trainer.global_step % 3 == 0:
        self.lr_schedulers().step()
    self.log("loss", loss, prog_bar=True)


def manual(boring, **methods):
    methods = {"training_step": alternate, "configure_optimizers": two_optimizers, **methods}
    return boring.regression(automatic_optimization=False, **methods)


def raw_loop(boring, epochs):
    module, updates = boring.regression().double(), 0
    (one, other), (scheduler,) = two_optimizers(module)
    for _ in range(epochs):
        for i, (x, y) in enumerate(boring.loader()):
            one.zero_grad()
            other.zero_grad()
            nn.functional.mse_loss(module(x.double()), y.double()).backward()
            one.step()
            updates += 1
            if i % 2:
                other.step()
                updates += 1
            if updates % 3 == 0:
                scheduler.step()
    return module, updates


def test_two_optimizers_equal_a_raw_loop(boring, make_trainer):
    module = manual(boring)
    trainer = make_trainer(precision="64-true", max_epochs=3)
    trainer.fit(module, boring.loader())
    raw, updates = raw_loop(boring, 3)
    assert boring.difference(boring.weights(module), boring.weights(raw)) <= 1e-12
    assert trainer.global_step == updates == 21


def test_scaled_gradients_with_two_optimizers(boring, make_trainer):
    precision = MixedPrecision("16-mixed", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))

    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self(x).float(), y)

    module = manual(boring, loss=loss)
    make_trainer(plugins=precision, max_epochs=3).fit(module, boring.loader())
    raw, _ = raw_loop(boring, 3)
    assert (
        boring.difference(
            {n: w.double() for n, w in boring.weights(module).items()}, boring.weights(raw)
        )
        < 0.01
    )


def test_a_closure_is_run_before_the_update(boring, make_trainer):
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        losses.append((self.loss(batch).item(), optimizer.step(closure).item()))

    losses = []
    module = boring.regression(automatic_optimization=False, training_step=training_step)
    automatic = boring.regression()
    make_trainer().fit(module, boring.loader())
    make_trainer().fit(automatic, boring.loader())
    assert boring.difference(boring.weights(module), boring.weights(automatic)) == 0.0
    assert all(before == from_closure for before, from_closure in losses)


def test_the_optimizer_that_is_handed_out_looks_like_the_real_one(boring, make_trainer):
    seen = []

    def training_step(self, batch, batch_idx):
        handed_out = self.optimizers()
        seen.append(
            (
                handed_out.param_groups is self.trainer.optimizers[0].param_groups,
                handed_out.defaults["lr"],
            )
        )

    module = boring.regression(automatic_optimization=False, training_step=training_step)
    make_trainer(limit_train_batches=1).fit(module, boring.loader())
    assert seen == [(True, 0.1)]
    with pytest.raises(UserError, match="is attached to no Trainer"):
        module.trainer  # noqa: B018


def test_hooks_see_final_gradients_and_clipping_is_left_to_the_user(boring, make_trainer):
    gradients = []

    def on_before_optimizer_step(self, optimizer):
        gradients.append(
            max(float(p.grad.abs().max()) for g in optimizer.param_groups for p in g["params"])
        )

    module = manual(boring, on_before_optimizer_step=on_before_optimizer_step)
    make_trainer(precision="64-true").fit(module, boring.loader())
    assert len(gradients) == 7
    raw, _ = raw_loop(boring, 1)
    assert boring.difference(boring.weights(module), boring.weights(raw)) <= 1e-12
