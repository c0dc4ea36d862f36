from __future__ import annotations

import pytest
import torch

from torchrelay.callbacks import LearningRateMonitor
from torchrelay.errors import ConfigurationError


class Rows:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step):
        self.rows.append((step, dict(metrics)))

    def rates(self):
        return [
            (step, {name: v for name, v in row.items() if name != "epoch"})
            for step, row in self.rows
            if any(name.startswith(("lr-", "mine")) for name in row)
        ]


def fit(boring, make_trainer, configure, monitor, **options):
    module = boring.regression(configure_optimizers=configure, validation_step=None)
    del type(module).validation_step
    rows = Rows()
    options = {"max_epochs": 2, "log_every_n_steps": 2, "num_sanity_val_steps": 0, **options}
    trainer = make_trainer(callbacks=monitor, logger=rows, limit_val_batches=0, **options)
    trainer.fit(module, boring.loader(16))  # 4 updates an epoch
    return rows.rates()


def stepwise(self):
    optimizer = torch.optim.SGD(self.parameters(), lr=8.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def test_every_so_many_updates_the_rate_that_each_is_made_with(boring, make_trainer):
    rates = fit(boring, make_trainer, stepwise, LearningRateMonitor())
    expected = [(step, {"lr-SGD": 8.0 * 0.5 ** (step - 1)}) for step in (2, 4, 6, 8)]
    assert rates == expected


def test_once_an_update_also_when_gradients_are_accumulated(boring, make_trainer):
    monitor = LearningRateMonitor("step")
    rates = fit(boring, make_trainer, stepwise, monitor, accumulate_grad_batches=2)
    assert [step for step, _ in rates] == [2, 4]


def test_by_epoch_if_asked_for_or_where_the_scheduler_steps_by_epoch(boring, make_trainer):
    def epochwise(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=8.0)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    expected = [(0, {"lr-SGD": 8.0}), (4, {"lr-SGD": 4.0})]
    assert fit(boring, make_trainer, epochwise, LearningRateMonitor()) == expected
    rates = fit(boring, make_trainer, stepwise, LearningRateMonitor("epoch"))
    assert rates == [(0, {"lr-SGD": 8.0}), (4, {"lr-SGD": 0.5})]


def test_names_of_groups_optimizers_and_schedulers(boring, make_trainer):
    def configure(self):
        self.automatic_optimization = False
        first, second = self.net[0], self.net[3]
        groups = [
            {"params": first.weight, "name": "deep", "lr": 1.0},
            {"params": first.bias, "lr": 2.0, "weight_decay": 0.25},
        ]
        one = torch.optim.SGD(groups, momentum=0.5)
        two = torch.optim.SGD([second.weight], lr=3.0)
        three = torch.optim.Adam([second.bias], lr=4.0)
        named = {"scheduler": torch.optim.lr_scheduler.StepLR(three, 9), "name": "mine"}
        return [one, two, three], [named]

    monitor = LearningRateMonitor("epoch", log_momentum=True, log_weight_decay=True)
    rates = fit(boring, make_trainer, configure, monitor, max_epochs=1)
    assert rates == [
        (
            0,
            {
                "lr-SGD/deep": 1.0,
                "lr-SGD-momentum/deep": 0.5,
                "lr-SGD-weight_decay/deep": 0.0,
                "lr-SGD/pg2": 2.0,
                "lr-SGD-momentum/pg2": 0.5,
                "lr-SGD-weight_decay/pg2": 0.25,
                "lr-SGD-1": 3.0,
                "lr-SGD-1-momentum": 0.0,
                "lr-SGD-1-weight_decay": 0.0,
                "mine": 4.0,
                "mine-momentum": 0.9,
                "mine-weight_decay": 0.0,
            },
        )
    ]


def test_what_it_remembers(boring, make_trainer):
    monitor = LearningRateMonitor(log_momentum=True, log_weight_decay=True)
    for _ in range(2):  # a second fit begins anew
        fit(boring, make_trainer, stepwise, monitor)
        assert monitor.lrs == {"lr-SGD": [4.0, 1.0, 0.25, 0.0625]}
        assert monitor.last_momentum_values == {"lr-SGD-momentum": 0.0}
        assert monitor.last_weight_decay_values == {"lr-SGD-weight_decay": 0.0}


def test_it_needs_a_logger(boring, make_trainer):
    with pytest.raises(ConfigurationError, match="no logger to give learning rates to; pass"):
        make_trainer(callbacks=LearningRateMonitor(), logger=False).fit(
            boring.regression(), boring.loader(), boring.loader()
        )


def test_an_interval_that_is_none():
    with pytest.raises(ConfigurationError, match=r"logging_interval='batch'.: must be 'step'"):
        LearningRateMonitor("batch")
