from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from torchrelay.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torchrelay.errors import ConfigurationError

EPOCHS = 6


def network(norm=True):
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(8) if norm else nn.Tanh()
    return nn.Sequential(nn.Linear(4, 8), middle, nn.Linear(8, 1))


@pytest.fixture
def fit(boring, make_trainer):
    """Fits with a callback; the module, and the learning rate of each epoch."""

    def run(callback, resume=None, others=(), norm=True, scheduled=None, seed=0, **options):
        rates = []

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)
            if scheduled is None:
                return optimizer
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return [optimizer], [{"scheduler": scheduler, "interval": scheduled}]

        def on_train_batch_start(self, batch, batch_idx):
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

        module = boring.regression(
            configure_optimizers=configure_optimizers, on_train_batch_start=on_train_batch_start
        )
        module.net = network(norm)
        torch.manual_seed(seed)
        trainer = make_trainer(callbacks=[callback, *others], **{"max_epochs": EPOCHS, **options})
        trainer.fit(module, boring.loader(20), ckpt_path=resume)
        return module, rates[::5], trainer

    return run


def recipe(boring, start, scheduled=False, annealing=2, norm=True):
    """The loop of torch's own documentation: weights of the epochs after `start`, and the rate of each epoch."""
    model, rates = network(norm), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    average = AveragedModel(model)
    annealer = None
    for epoch in range(EPOCHS):
        if epoch == start:
            annealer = SWALR(optimizer, 0.02, annealing)
        rates.append(optimizer.param_groups[0]["lr"])
        for x, y in boring.loader(20):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        if epoch >= start:
            average.update_parameters(model)
            annealer.step()
        elif scheduled:
            scheduler.step()
    update_bn(boring.loader(20), average)
    return average.module, rates


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("scheduled", [None, "epoch"])
@pytest.mark.parametrize(("start", "index"), [(4, 3), (1, 0), (0.5, 2), (0.0, 0)])
def test_it_is_the_recipe_of_torch(boring, fit, norm, scheduled, start, index):
    callback = StochasticWeightAveraging(0.02, start, annealing_epochs=2)
    module, rates, trainer = fit(callback, norm=norm, scheduled=scheduled)
    expected, expected_rates = recipe(boring, index, bool(scheduled), norm=norm)
    assert rates == pytest.approx(expected_rates)
    assert callback.n_averaged == EPOCHS - index
    assert boring.difference(boring.weights(module.net), boring.weights(expected)) < 1e-6
    assert set(trainer.callback_metrics) == {"loss"}


def test_a_scheduler_by_update_rests_too(boring, fit):
    _, rates, _ = fit(StochasticWeightAveraging(0.02, 3, annealing_epochs=1), scheduled="step")
    assert rates[2] == pytest.approx(0.1 * 0.5**10)
    assert rates[3:] == pytest.approx([0.02] * 3)


def test_linear_annealing_and_rates_by_group(fit):
    swa = StochasticWeightAveraging([0.02], 1, annealing_epochs=4, annealing_strategy="linear")
    assert fit(swa)[1] == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02, 0.02])


def test_an_average_of_the_users(boring, fit):
    latest = StochasticWeightAveraging(0.1, 1, avg_fn=lambda average, weight, number: weight)
    module, _, _ = fit(latest, norm=False)
    plain, _, _ = fit(ModelCheckpoint(), norm=False)
    assert boring.difference(boring.weights(module), boring.weights(plain)) < 1e-6


def test_a_run_that_ends_before_it_begins(boring, fit):
    swa = StochasticWeightAveraging(0.02, 5)
    module, _, _ = fit(swa, max_epochs=4)
    plain, _, _ = fit(ModelCheckpoint(), max_epochs=4)
    assert swa.n_averaged == 0
    assert boring.difference(boring.weights(module), boring.weights(plain)) == 0


@pytest.mark.parametrize("step", [5, 10, 12, 15, 18, 25])
def test_a_resumed_run_equals_one_that_was_not_interrupted(boring, fit, tmp_path, step):
    def make():
        return StochasticWeightAveraging(0.02, 3, annealing_epochs=3)

    keeper = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    whole, rates, _ = fit(make(), others=[keeper], scheduled="epoch")
    resumed = make()
    module, later, _ = fit(resumed, tmp_path / f"step={step}.ckpt", scheduled="epoch", seed=9)
    assert boring.difference(boring.weights(module), boring.weights(whole)) == 0
    assert resumed.n_averaged == EPOCHS - 2
    assert later[-1] == rates[-1]


def test_its_state_is_plain_data(fit, tmp_path):
    keeper = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(StochasticWeightAveraging(0.02, 3), others=[keeper])
    early, late = (
        torch.load(tmp_path / f"epoch={n}.ckpt", weights_only=True)["callbacks"] for n in (1, 5)
    )
    assert "StochasticWeightAveraging" not in early
    state = late["StochasticWeightAveraging"]
    assert state["n_averaged"] == 3  # the last epoch is taken in when training ends
    assert "net.0.weight" in state["average_model_state"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"swa_lrs": 0.0}, "swa_lrs=0.0.: must be a number above 0"),
        ({"swa_lrs": [0.1, "x"]}, "must be a number above 0, or a list"),
        ({"swa_lrs": []}, "must be a number above 0, or a list"),
        ({"swa_epoch_start": 0}, "swa_epoch_start=0.: must be an epoch from 1, or a fraction"),
        ({"swa_epoch_start": 1.5}, "must be an epoch from 1, or a fraction"),
        ({"annealing_epochs": -1}, "annealing_epochs=-1.: must be a whole number"),
        ({"annealing_strategy": "exp"}, "annealing_strategy='exp'.: must be 'cos' or 'linear'"),
        ({"avg_fn": 3}, "avg_fn=3.: must be a function"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments, match):
    with pytest.raises(ConfigurationError, match=match):
        StochasticWeightAveraging(**{"swa_lrs": 0.1, **arguments})


def test_a_rate_for_each_group(fit):
    with pytest.raises(ConfigurationError, match="must be one number, or 1, one for each"):
        fit(StochasticWeightAveraging([0.1, 0.2]))


def test_a_fraction_of_a_run_without_an_end(fit):
    with pytest.raises(ConfigurationError, match=r"a fraction needs Trainer\(max_epochs"):
        fit(StochasticWeightAveraging(0.1), max_epochs=-1, max_steps=3)


def test_manual_optimization_is_refused(boring, make_trainer):
    module = boring.regression()
    module.automatic_optimization = False
    with pytest.raises(ConfigurationError, match="needs automatic optimization with one optimizer"):
        make_trainer(callbacks=StochasticWeightAveraging(0.1)).fit(module, boring.loader())


def test_a_module_that_is_not_whole_here_is_refused(boring, make_trainer):
    module = boring.regression()
    module.rest = nn.Parameter(torch.empty(0))  # the placeholder of a weight that other ranks hold
    match = "averages whole weights on each rank, and SingleDeviceStrategy holds .* part of rest"
    with pytest.raises(ConfigurationError, match=match):
        make_trainer(callbacks=StochasticWeightAveraging(0.1)).fit(module, boring.loader())


@pytest.mark.timeout(120)
def test_two_processes_have_one_average(boring, make_trainer):
    pytest.importorskip("torchrelay_ddp")
    module = boring.regression()
    module.net = network()
    swa = StochasticWeightAveraging(0.02, 2)
    trainer = make_trainer(strategy="ddp_fork", devices=2, callbacks=swa, max_epochs=3)
    trainer.fit(module, boring.loader(32, shuffle=False))
    alone = boring.regression()
    alone.net = network()
    state = boring.weights(module.net)
    alone.net.load_state_dict(state)
    update_bn(boring.loader(32, batch_size=16), alone.net)
    # each rank's statistics are those of its half of the data, and the means of means are exact
    assert torch.allclose(state["1.running_mean"], alone.net[1].running_mean, atol=1e-5)
