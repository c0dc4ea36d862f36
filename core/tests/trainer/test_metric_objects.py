"""Objects that collect by themselves, as torchmetrics' `Metric`, given to `self.log`."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric, MetricCollection, SumMetric
from torchmetrics.classification import BinaryAccuracy, BinaryPrecision, BinaryRecall

from torchrelay.collectives import NoCollectives
from torchrelay.errors import ConfigurationError
from torchrelay.trainer.metrics import Metrics


class Total:
    """Adds up; no torchmetrics in it."""

    def __init__(self):
        self.sum, self.calls = 0.0, []

    def update(self, value):
        self.sum += float(value)

    def compute(self):
        self.calls.append("compute")
        return self.sum

    def reset(self):
        self.calls.append("reset")
        self.sum = 0.0


def recorder(stage="validate", owner=None, in_step=True):
    metrics = Metrics(stage, NoCollectives, owner)
    metrics.in_step = in_step
    return metrics


def plain(values):
    return {name: float(value) for name, value in values.items()}


def feed(metrics, target, *values, **options):
    for value in values:
        target.update(value)
        metrics.log("m", target, **options)


@pytest.mark.parametrize("kind", [Total, SumMetric], ids=["own", "torchmetrics"])
def test_an_epoch_is_computed_once_and_then_begins_anew(kind):
    metrics, target = recorder(), kind()
    for first in (1.0, 10.0):
        feed(metrics, target, first, 2.0)
        assert metrics.epoch_values() == {} or first == 10.0
        metrics.close_epoch()
        (value,) = metrics.epoch_values().values()
        assert isinstance(value, torch.Tensor)
        assert value.shape == ()
        assert float(value) == first + 2.0
    assert metrics.results(1) == [{"m": 12.0}]


def test_it_is_computed_and_reset_once_an_epoch():
    metrics, target = recorder(), Total()
    feed(metrics, target, 1.0, 2.0)
    metrics.close_epoch()
    metrics.close_epoch()
    assert target.calls == ["compute", "reset"]


def test_the_reset_may_wait_until_a_hook_has_read_the_object():
    metrics, target = recorder(), Total()
    feed(metrics, target, 1.0, 2.0)
    metrics.close_epoch(reset=False)
    assert plain(metrics.values()) == {"m": 3.0}
    assert target.sum == 3.0
    metrics.close_epoch()
    assert target.calls == ["compute", "reset"]


def test_an_object_that_was_not_logged_itself_is_left_alone():
    metrics, target = recorder(), SumMetric()
    target.update(4.0)
    metrics.log("m", target.compute())
    metrics.close_epoch()
    assert float(target.compute()) == 4.0


def test_in_training_the_last_batch_is_what_a_step_shows():
    metrics, target = recorder("train"), MeanMetric()
    for value in (2.0, 6.0):
        target(value)
        metrics.log("m", target, on_epoch=True, prog_bar=True)
        assert plain(metrics.step_values()) == {"m_step": value}
    metrics.close_epoch()
    assert plain(metrics.values()) == {"m": 4.0, "m_step": 6.0, "m_epoch": 4.0}
    assert plain(metrics.progress_bar_values()) == {"m_step": 6.0, "m_epoch": 4.0}


def test_logged_by_step_alone_it_is_reset_all_the_same():
    metrics, target = recorder("train"), MeanMetric()
    target(2.0)
    metrics.log("m", target)
    metrics.close_epoch()
    assert plain(metrics.values()) == {"m": 2.0}
    assert metrics.epoch_values() == {}
    assert not target.update_called


def test_without_forward_a_step_has_no_value():
    metrics, target = recorder("train"), MeanMetric()
    feed(metrics, target, 2.0, on_epoch=True)
    assert metrics.step_values() == {}
    metrics.close_epoch()
    assert plain(metrics.epoch_values()) == {"m_epoch": 2.0}


def test_each_data_loader_may_have_an_object_of_its_own():
    metrics, targets = recorder(), [Total(), Total()]
    for number, target in enumerate(targets):
        metrics.dataloader_idx = number
        feed(metrics, target, 1.0 + number)
    metrics.in_step, metrics.dataloader_idx = False, None
    metrics.log("all", 5.0)
    metrics.close_epoch()
    assert metrics.results(2) == [
        {"m/dataloader_idx_0": 1.0, "all": 5.0},
        {"m/dataloader_idx_1": 2.0, "all": 5.0},
    ]
    assert [target.sum for target in targets] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("target", "options", "match"),
    [
        (Total(), {"on_step": True}, "does not keep the value of its last batch as _forward_cache"),
        (Total(), {"rank_zero_only": True}, r"all ranks must take part in compute\(\)"),
        (MetricCollection([MeanMetric()]), {}, "is a collection; give it to log_dict"),
        (Total, {}, "a type is not a number"),
    ],
    ids=["on_step", "rank_zero_only", "collection", "class"],
)
def test_what_cannot_be_logged(target, options, match):
    with pytest.raises(ConfigurationError, match=match):
        recorder().log("m", target, **options)


class Computes(Total):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def compute(self):
        return self.value


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": 1.0}, r"compute\(\) returns a dict; .*log_dict\(metric.compute\(\)\)"),
        (torch.zeros(2, 2), r"a tensor of shape \(2, 2\) is not a number"),
        (None, "a NoneType is not a number"),
    ],
    ids=["dict", "matrix", "none"],
)
def test_what_is_computed_must_be_a_number(value, match):
    metrics = recorder()
    metrics.log("m", Computes(value))
    with pytest.raises(ConfigurationError, match=match):
        metrics.close_epoch()


def test_two_objects_cannot_have_one_name():
    metrics = recorder()
    metrics.log("m", Total())
    with pytest.raises(ConfigurationError, match="another object was logged under this name"):
        metrics.log("m", Total())
    metrics.close_epoch()
    feed(metrics, Total(), 7.0)
    metrics.close_epoch()
    assert plain(metrics.values()) == {"m": 7.0}


def test_a_number_and_an_object_cannot_have_one_name():
    metrics = recorder()
    metrics.log("object", Total())
    metrics.log("number", 1.0)
    with pytest.raises(ConfigurationError, match="another object was logged under this name"):
        metrics.log("object", 1.0)
    with pytest.raises(ConfigurationError, match="a Total is not a number"):
        metrics.log("number", Total())


# --- in a run ---------------------------------------------------------------------------------------------


def classify(scores):
    """Predictions and targets of a batch, of which some are right."""
    return torch.sigmoid(scores.flatten()), (torch.arange(scores.numel()) % 2)


def test_a_run_logs_a_metric_and_a_collection(boring, make_trainer):
    """Values are those of metrics that saw the same batches; a sanity check leaves nothing behind."""

    class Module(boring.Regression):
        def __init__(self, dropout=0.0):
            super().__init__(dropout)
            self.acc = BinaryAccuracy()
            self.scores = MetricCollection([BinaryPrecision(), BinaryRecall()], prefix="val_")
            self.total = Total()
            self.seen = []

        def training_step(self, batch, batch_idx):
            return self.loss(batch)

        def validation_step(self, batch, batch_idx):
            pair = classify(self(batch[0]))
            self.acc(*pair)
            self.scores.update(*pair)
            self.total.update(batch_idx)
            self.log("acc", self.acc, prog_bar=True)
            self.log_dict(self.scores)
            self.log("total", self.total, on_step=False, on_epoch=True)
            if not self.trainer.sanity_checking:
                self.seen.append(pair)

    torch.manual_seed(0)
    module = Module()
    trainer = make_trainer(max_epochs=2, num_sanity_val_steps=2)
    trainer.fit(module, boring.loader(20), boring.loader(12))
    got = plain(trainer.callback_metrics)
    epoch = module.seen[3:]
    assert len(module.seen) == 6
    expected = {"acc": BinaryAccuracy(), "val_BinaryPrecision": BinaryPrecision()}
    expected["val_BinaryRecall"] = BinaryRecall()
    for name, metric in expected.items():
        for pair in epoch:
            metric.update(*pair)
        assert got[name] == float(metric.compute())
    assert got["total"] == 0 + 1 + 2
    assert not module.acc.update_called
    assert module.total.calls == ["compute", "reset"] * 3


def test_an_attribute_is_found_by_what_it_is():
    owner = nn.Module()
    owner.scores = MetricCollection([BinaryPrecision(), BinaryRecall()], prefix="val_")
    owner.total = Total()
    metrics = recorder(owner=owner)
    metrics.log("total", owner.total)
    for name, metric in owner.scores.items(keep_base=False, copy_state=False):
        metrics.log(name, metric)
    attributes = {name: entry.options.attribute for name, entry in metrics._entries.items()}
    assert attributes == {
        "total": "total",
        "val_BinaryPrecision": "scores.BinaryPrecision",
        "val_BinaryRecall": "scores.BinaryRecall",
    }
