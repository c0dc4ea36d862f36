from __future__ import annotations

import statistics

import pytest
import torch

from torchrelay.collectives import NoCollectives
from torchrelay.errors import ConfigurationError
from torchrelay.trainer.log_options import Asked, Place, reduction, resolve
from torchrelay.trainer.metrics import Metrics

IN_BATCH, OUTSIDE = Place(True, None), Place(False, None)


def test_the_arguments_are_those_of_log(boring):
    """`log` hands them on by position, so that a step pays for no dict."""
    metrics = Metrics("train", NoCollectives)
    module = boring.regression()
    module._trainer = type("Driver", (), {"metrics": metrics})
    given = Asked(True, False, True, True, "sum", True, True, None, False, "net", False)
    module.log("a", 1.0, batch_size=3, **{**given._asdict(), "on_step": False})
    module.log("b", 1.0, batch_size=3, **{**given._asdict(), "on_step": False})
    module.log_dict({"c": 1.0}, on_epoch=True, sync_dist=True, logger=False)
    assert metrics._entries["a"].asked == given._replace(on_step=False)
    assert metrics._entries["c"].asked == Asked(on_epoch=True, sync_dist=True, logger=False)


@pytest.mark.parametrize(
    ("reduce_fx", "name"),
    [
        ("mean", "mean"),
        ("AVG", "mean"),
        (torch.mean, "mean"),
        ("sum", "sum"),
        (torch.sum, "sum"),
        (sum, "sum"),
        (torch.min, "min"),
        (min, "min"),
        ("Max", "max"),
        (torch.max, "max"),
        (max, "max"),
    ],
    ids=lambda value: getattr(value, "__qualname__", repr(value)),
)
def test_the_ways_to_combine(reduce_fx, name):
    assert reduction("m", reduce_fx) == name


@pytest.mark.parametrize("reduce_fx", ["median", statistics.mean, torch.std, None, [], 3])
def test_another_way_to_combine_is_refused(reduce_fx):
    with pytest.raises(ConfigurationError, match=r"must be one of 'mean', 'sum', 'min', 'max'"):
        reduction("m", reduce_fx)


@pytest.mark.parametrize(
    ("name", "asked", "place", "match"),
    [
        (3, {}, IN_BATCH, "the name of a metric is a str, not int"),
        (None, {}, IN_BATCH, "the name of a metric is a str, not NoneType"),
        (
            "m/dataloader_idx_1",
            {},
            IN_BATCH,
            "leave them out of the name, or give add_dataloader_idx=False",
        ),
        ("m", {"on_step": False}, IN_BATCH, "would keep nothing"),
        ("m", {"on_step": True}, OUTSIDE, "on_step=True.*no batch is at work here"),
        ("m", {"on_epoch": False, "on_step": True}, OUTSIDE, "no batch is at work here"),
        (
            "m",
            {"rank_zero_only": True, "sync_dist": True},
            IN_BATCH,
            "all ranks must take part in combining a metric, and only rank 0 would",
        ),
        ("m", {"sync_dist_group": [0, 1]}, IN_BATCH, "sync_dist combines over all ranks"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(name, asked, place, match):
    with pytest.raises(ConfigurationError, match=match) as caught:
        resolve(name, Asked(**asked), place, training=True)
    assert "\n" not in str(caught.value)


def test_a_number_is_added_where_there_are_several_data_loaders():
    place = Place(True, 2)
    both = resolve("m", Asked(on_step=True), place, training=False)
    assert both.plain_name == "m/dataloader_idx_2"
    assert both.step_name == "m_step/dataloader_idx_2"
    assert both.epoch_name == "m_epoch/dataloader_idx_2"
    bare = resolve("m/dataloader_idx_7", Asked(add_dataloader_idx=False), place, training=False)
    assert bare.plain_name == bare.epoch_name == "m/dataloader_idx_7"


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ({}, {"on_epoch": True}, "on_epoch=None and then on_epoch=True"),
        ({"sync_dist": True}, {}, "sync_dist=True and then sync_dist=False"),
        (
            {"prog_bar": True, "reduce_fx": "sum"},
            {"reduce_fx": "max"},
            "prog_bar=True and then prog_bar=False, reduce_fx='sum' and then reduce_fx='max'",
        ),
    ],
    ids=str,
)
def test_options_that_change_are_named(first, second, match):
    metrics = Metrics("train", NoCollectives)
    metrics.in_step = True
    metrics.log("m", 1.0, **first)
    with pytest.raises(ConfigurationError, match=match):
        metrics.log("m", 1.0, **second)
    metrics.log("m", 2.0, **first)
    assert float(metrics.values()["m"]) == 2.0


def test_two_data_loaders_cannot_share_a_bare_name():
    metrics = Metrics("validate", NoCollectives)
    metrics.in_step, metrics.dataloader_idx = True, 0
    metrics.log("m", 1.0, add_dataloader_idx=False)
    metrics.log("other", 1.0)
    metrics.dataloader_idx = 1
    metrics.log("other", 1.0)
    with pytest.raises(ConfigurationError, match="data loaders 0 and 1 would share the name"):
        metrics.log("m", 1.0, add_dataloader_idx=False)
