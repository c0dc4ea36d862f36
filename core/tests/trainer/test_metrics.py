from __future__ import annotations

import csv
import math
import pickle

import pytest
import torch

from torchrelay.callbacks.callback import Callback
from torchrelay.collectives import NoCollectives
from torchrelay.errors import ConfigurationError
from torchrelay.loggers import CSVLogger
from torchrelay.trainer.metrics import Metrics


@pytest.fixture
def metrics():
    return Metrics("train", NoCollectives)


def in_step(metrics, *values, batch=None, **options):
    metrics.in_step, metrics.batch = True, batch
    for value in values:
        metrics.log("m", value, **options)


def plain(values):
    return {name: float(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("stage", "during_step", "step", "epoch"),
    [("train", True, True, False), ("train", False, False, True), ("validate", True, False, True)],
)
def test_defaults_of_on_step_and_on_epoch(stage, during_step, step, epoch):
    metrics = Metrics(stage, NoCollectives)
    metrics.in_step = during_step
    metrics.log("m", 2.0)
    metrics.close_epoch()
    assert plain(metrics.step_values()) == ({"m": 2.0} if step else {})
    assert plain(metrics.epoch_values()) == ({"m": 2.0} if epoch else {})


def test_names_when_both_are_kept(metrics):
    in_step(metrics, 1.0, 3.0, on_step=True, on_epoch=True)
    assert plain(metrics.step_values()) == {"m_step": 3.0}
    metrics.close_epoch()
    assert plain(metrics.epoch_values()) == {"m_epoch": 2.0}
    assert plain(metrics.values()) == {"m": 2.0, "m_step": 3.0, "m_epoch": 2.0}


@pytest.mark.parametrize(
    ("reduce_fx", "expected"),
    [
        ("mean", 2.5),
        ("sum", 10.0),
        ("min", 1.0),
        ("max", 4.0),
        (torch.mean, 2.5),
        (sum, 10.0),
        (torch.max, 4.0),
    ],
    ids=lambda value: getattr(value, "__qualname__", repr(value)),
)
def test_how_an_epoch_is_combined(metrics, reduce_fx, expected):
    in_step(
        metrics, 1, torch.tensor(2.0), 3.0, torch.tensor([4.0]), on_epoch=True, reduce_fx=reduce_fx
    )
    metrics.close_epoch()
    assert float(metrics.epoch_values()["m_epoch"]) == expected


@pytest.mark.parametrize(
    ("batches", "sizes"),
    [
        ([torch.zeros(3, 2), torch.zeros(1, 2)], {}),
        ([(torch.zeros(3), "x"), (torch.zeros(1), "y")], {}),
        ([{"x": torch.zeros(3)}, {"x": torch.zeros(1)}], {}),
        ([["a text", {"x": torch.zeros(3)}], ["a text", {"x": torch.zeros(1)}]], {}),
        ([None, None], {"batch_size": [3, 1]}),
    ],
    ids=["tensor", "tuple", "dict", "nested", "given"],
)
def test_the_mean_is_weighted_by_batch_size(metrics, batches, sizes):
    for i, (batch, value) in enumerate(zip(batches, (1.0, 5.0), strict=True)):
        size = {name: values[i] for name, values in sizes.items()}
        in_step(metrics, value, batch=batch, on_epoch=True, **size)
    metrics.close_epoch()
    assert float(metrics.epoch_values()["m_epoch"]) == 2.0


def test_an_epoch_begins_anew_and_keeps_the_last_result(metrics):
    in_step(metrics, 1.0, on_epoch=True)
    metrics.close_epoch()
    metrics.close_epoch()
    assert float(metrics.values()["m"]) == 1.0
    in_step(metrics, 5.0, on_epoch=True)
    metrics.close_epoch()
    assert float(metrics.values()["m"]) == 5.0


def test_logging_keeps_no_graph(metrics):
    weight = torch.ones((), requires_grad=True)
    in_step(metrics, weight * 2, on_epoch=True)
    assert not metrics.values()["m"].requires_grad


@pytest.mark.parametrize(
    ("value", "options", "match"),
    [
        (
            "much",
            {},
            r"log\('m', ...\): a str is not a number; log a number or a 0-dim tensor$",
        ),
        (None, {}, "a NoneType is not a number"),
        ({"a": 1.0}, {}, "a dict is not a number"),
        (1j, {}, "a complex is not a number"),
        (torch.tensor(1j), {}, "a complex is not a number"),
        (
            torch.zeros(2, 3),
            {},
            r"a tensor of shape \(2, 3\) is not a number; log a number or a 0-dim tensor, such as its mean",
        ),
        (
            1.0,
            {"batch_size": -1},
            "batch_size=-1.*the weight in a mean is a number, and not negative",
        ),
        (1.0, {"batch_size": "4"}, "batch_size='4'"),
    ],
    ids=str,
)
def test_what_cannot_be_logged(metrics, value, options, match):
    with pytest.raises(ConfigurationError, match=match):
        in_step(metrics, value, **options)


def test_an_unknown_argument_is_refused(metrics):
    with pytest.raises(TypeError, match="on_stpe"):
        in_step(metrics, 1.0, on_stpe=True)


def test_nan_is_a_number(metrics):
    in_step(metrics, 1.0, float("nan"), on_epoch=True)
    metrics.close_epoch()
    assert math.isnan(metrics.values()["m_step"])
    assert math.isnan(metrics.values()["m_epoch"])


def test_a_tensor_may_change_after_it_was_logged(metrics):
    value = torch.ones(())
    for _ in range(3):
        in_step(metrics, value, on_epoch=True)
        value += 1
    assert float(metrics.values()["m_step"]) == 3.0
    metrics.close_epoch()
    assert float(metrics.values()["m_epoch"]) == 2.0


def test_a_graph_is_kept_where_asked_for(metrics):
    weight = torch.ones((), requires_grad=True)
    in_step(metrics, weight * 2, weight * 4, on_epoch=True, enable_graph=True)
    metrics.close_epoch()
    for name, slope in (("m_step", 4.0), ("m_epoch", 3.0)):
        (gradient,) = torch.autograd.grad(metrics.values()[name], weight, retain_graph=True)
        assert float(gradient) == slope


def test_one_name_within_a_batch_and_outside_of_any_are_two_metrics():
    metrics = Metrics("validate", NoCollectives)
    in_step(metrics, 1.0, 3.0, batch=torch.zeros(4))
    metrics.in_step = False
    metrics.log("m", 10.0)
    metrics.close_epoch()
    assert plain(metrics.values()) == {"m": 10.0}


def test_the_newer_of_step_and_epoch_has_the_plain_name(metrics):
    in_step(metrics, 1.0, 3.0, on_epoch=True)
    assert plain(metrics.values()) == {"m": 3.0, "m_step": 3.0}
    metrics.close_epoch()
    assert plain(metrics.values())["m"] == 2.0
    in_step(metrics, 7.0, on_epoch=True)
    assert plain(metrics.values()) == {"m": 7.0, "m_step": 7.0, "m_epoch": 2.0}


def test_each_batch_has_a_size_of_its_own(metrics):
    """Even where a loader hands out the same container each time."""
    batch = [torch.zeros(3)]
    in_step(metrics, 1.0, batch=batch, on_epoch=True)
    batch[0] = torch.zeros(1)
    in_step(metrics, 5.0, batch=batch, on_epoch=True)
    metrics.close_epoch()
    assert float(metrics.values()["m_epoch"]) == 2.0


def test_memory_does_not_grow_with_the_epoch(metrics):
    in_step(metrics, *[torch.tensor(float(i)) for i in range(50)], on_epoch=True)
    first = len(pickle.dumps(metrics._entries["m"]._accumulator))
    in_step(metrics, *[torch.tensor(float(i)) for i in range(5000)], on_epoch=True)
    assert len(pickle.dumps(metrics._entries["m"]._accumulator)) <= first + 8


def rows(logger):
    with open(logger.path, newline="") as file:
        return [{k: v for k, v in row.items() if v and k != "time"} for row in csv.DictReader(file)]


def test_what_a_run_logs(boring, make_trainer, tmp_path):
    """The rows of a CSV file, the callbacks' metrics and the progress bar's, in a run of two epochs."""
    watched = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            watched.append((plain(trainer.callback_metrics), plain(trainer.progress_bar_metrics)))

    def training_step(self, batch, batch_idx):
        self.log("i", batch_idx, prog_bar=True)
        self.log("both", float(batch_idx), on_epoch=True)
        self.log("hidden", 7.0, logger=False)
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val": float(batch_idx), "top": batch_idx}, prog_bar=True, reduce_fx="max")

    module = boring.regression(
        training_step=training_step,
        validation_step=validation_step,
        on_train_epoch_end=lambda self: self.log("epoch_end", self.current_epoch),
    )
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(max_epochs=2, callbacks=Watch(), logger=logger, log_every_n_steps=2)
    trainer.fit(module, boring.loader(20), boring.loader(12))

    during = {
        "i": 4.0,
        "both": 2.0,
        "both_step": 4.0,
        "both_epoch": 2.0,
        "hidden": 7.0,
        "val": 2.0,
        "top": 2.0,
    }
    assert watched[0] == (during, {"i": 4.0, "val": 2.0, "top": 2.0})
    assert plain(trainer.callback_metrics) == {**during, "epoch_end": 1.0}
    assert plain(trainer.logged_metrics).keys() == {
        "i",
        "both_step",
        "both_epoch",
        "val",
        "top",
        "epoch_end",
    }
    assert rows(logger) == [
        {"step": "2", "epoch": "0", "i": "1.0", "both_step": "1.0"},
        {"step": "4", "epoch": "0", "i": "3.0", "both_step": "3.0"},
        {"step": "5", "epoch": "0", "val": "2.0", "top": "2.0"},
        {"step": "5", "epoch": "0", "both_epoch": "2.0", "epoch_end": "0.0"},
        {"step": "6", "epoch": "1", "i": "0.0", "both_step": "0.0"},
        {"step": "8", "epoch": "1", "i": "2.0", "both_step": "2.0"},
        {"step": "10", "epoch": "1", "i": "4.0", "both_step": "4.0"},
        {"step": "10", "epoch": "1", "val": "2.0", "top": "2.0"},
        {"step": "10", "epoch": "1", "both_epoch": "2.0", "epoch_end": "1.0"},
    ]


def test_a_row_for_each_update_that_is_due_and_none_for_one_that_was_skipped(
    boring, make_trainer, tmp_path
):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(optimizer_closure) if batch_idx == 2 else optimizer_closure()

    logger = CSVLogger(tmp_path)
    trainer = make_trainer(logger=logger, log_every_n_steps=1)
    trainer.fit(boring.regression(optimizer_step=optimizer_step), boring.loader())
    assert [row["step"] for row in rows(logger)] == ["1"]


def test_fast_dev_run_logs_nothing(boring, make_trainer, tmp_path):
    logger = CSVLogger(tmp_path / "logs")
    make_trainer(fast_dev_run=True, logger=logger, log_every_n_steps=1).fit(
        boring.regression(), boring.loader()
    )
    assert not (tmp_path / "logs").exists()
