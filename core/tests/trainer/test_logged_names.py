"""The names under which Lightning 2.6.6 shows what was logged, as recorded from it; ours are the same."""

from __future__ import annotations

import pytest
import torch

from torchrelay.collectives import NoCollectives
from torchrelay.errors import ConfigurationError
from torchrelay.trainer.metrics import Metrics

# (on_step, on_epoch, data loaders, add_dataloader_idx), and then the names of callback_metrics, logged_metrics,
# progress_bar_metrics and each dict that validate returns; None where Lightning refuses the arguments. NAME/N
# stands for NAME/dataloader_idx_N. Logged with the arguments and prog_bar=True: "t" in training_step, "v" in
# validation_step (without add_dataloader_idx, the data loader's number follows). Besides, "hiddenv" with
# logger=False, on_epoch=True in validation_step, and "end" in on_validation_epoch_end.
RECORDED = [
    ((None, None, 1, True), ["end hiddenv t v", "end t v", "t v", ["end v"]]),
    (
        (None, None, 2, True),
        [
            "end hiddenv/0 hiddenv/1 t v/0 v/1",
            "end t v/0 v/1",
            "t v/0 v/1",
            ["end v/0", "end v/1"],
        ],
    ),
    (
        (None, None, 2, False),
        ["end hiddenv0 hiddenv1 t v0 v1", "end t v0 v1", "t v0 v1", ["end v0", "end v1"]],
    ),
    (
        (None, True, 1, True),
        ["end hiddenv t t_epoch t_step v", "end t_epoch t_step v", "t_epoch t_step v", ["end v"]],
    ),
    (
        (None, True, 2, True),
        [
            "end hiddenv/0 hiddenv/1 t t_epoch t_step v/0 v/1",
            "end t_epoch t_step v/0 v/1",
            "t_epoch t_step v/0 v/1",
            ["end v/0", "end v/1"],
        ],
    ),
    (
        (None, True, 2, False),
        [
            "end hiddenv0 hiddenv1 t t_epoch t_step v0 v1",
            "end t_epoch t_step v0 v1",
            "t_epoch t_step v0 v1",
            ["end v0", "end v1"],
        ],
    ),
    ((None, False, 1, True), None),
    ((None, False, 2, True), None),
    ((None, False, 2, False), None),
    (
        (True, None, 1, True),
        ["end hiddenv t v v_epoch", "end t v_epoch v_step", "t v_epoch v_step", ["end v_epoch"]],
    ),
    (
        (True, None, 2, True),
        [
            "end hiddenv/0 hiddenv/1 t v/0 v/1 v_epoch/0 v_epoch/1",
            "end t v_epoch/0 v_epoch/1 v_step/0 v_step/1",
            "t v_epoch/0 v_epoch/1 v_step/0 v_step/1",
            ["end v_epoch/0", "end v_epoch/1"],
        ],
    ),
    (
        (True, None, 2, False),
        [
            "end hiddenv0 hiddenv1 t v0 v0_epoch v1 v1_epoch",
            "end t v0_epoch v0_step v1_epoch v1_step",
            "t v0_epoch v0_step v1_epoch v1_step",
            ["end v0_epoch", "end v1_epoch"],
        ],
    ),
    (
        (True, True, 1, True),
        [
            "end hiddenv t t_epoch t_step v v_epoch",
            "end t_epoch t_step v_epoch v_step",
            "t_epoch t_step v_epoch v_step",
            ["end v_epoch"],
        ],
    ),
    (
        (True, True, 2, True),
        [
            "end hiddenv/0 hiddenv/1 t t_epoch t_step v/0 v/1 v_epoch/0 v_epoch/1",
            "end t_epoch t_step v_epoch/0 v_epoch/1 v_step/0 v_step/1",
            "t_epoch t_step v_epoch/0 v_epoch/1 v_step/0 v_step/1",
            ["end v_epoch/0", "end v_epoch/1"],
        ],
    ),
    (
        (True, True, 2, False),
        [
            "end hiddenv0 hiddenv1 t t_epoch t_step v0 v0_epoch v1 v1_epoch",
            "end t_epoch t_step v0_epoch v0_step v1_epoch v1_step",
            "t_epoch t_step v0_epoch v0_step v1_epoch v1_step",
            ["end v0_epoch", "end v1_epoch"],
        ],
    ),
    ((True, False, 1, True), ["end hiddenv t", "end t v", "t v", ["end"]]),
    (
        (True, False, 2, True),
        [
            "end hiddenv/0 hiddenv/1 t",
            "end t v/0 v/1",
            "t v/0 v/1",
            ["end", "end"],
        ],
    ),
    (
        (True, False, 2, False),
        ["end hiddenv0 hiddenv1 t", "end t v0 v1", "t v0 v1", ["end", "end"]],
    ),
    ((False, None, 1, True), None),
    ((False, None, 2, True), None),
    ((False, None, 2, False), None),
    ((False, True, 1, True), ["end hiddenv t v", "end t v", "t v", ["end v"]]),
    (
        (False, True, 2, True),
        [
            "end hiddenv/0 hiddenv/1 t v/0 v/1",
            "end t v/0 v/1",
            "t v/0 v/1",
            ["end v/0", "end v/1"],
        ],
    ),
    (
        (False, True, 2, False),
        ["end hiddenv0 hiddenv1 t v0 v1", "end t v0 v1", "t v0 v1", ["end v0", "end v1"]],
    ),
    ((False, False, 1, True), None),
    ((False, False, 2, True), None),
    ((False, False, 2, False), None),
]


def full(names):
    """The names of a cell of the table."""
    return set(names.replace("/", "/dataloader_idx_").split())


def validate(loaders, add, **options):
    """The metrics of a validation, and the names that loggers were given."""
    metrics, sent = Metrics("validate", NoCollectives), set()
    for loader in range(loaders):
        metrics.in_step, metrics.dataloader_idx = True, loader if loaders > 1 else None
        name = "v" if add else f"v{loader}"
        for _ in range(2):
            metrics.batch = torch.zeros(2)
            metrics.log(name, 1.0, add_dataloader_idx=add, **options)
            metrics.log(f"hidden{name}", 1.0, add_dataloader_idx=add, on_epoch=True, logger=False)
            sent |= metrics.step_values(for_logger=True).keys()
    metrics.in_step, metrics.dataloader_idx = False, None
    metrics.log("end", 2.0)
    metrics.close_epoch()
    return metrics, sent | metrics.epoch_values(for_logger=True).keys()


def train(**options):
    """The metrics of an epoch of training, and the names that loggers were given."""
    metrics = Metrics("train", NoCollectives)
    metrics.in_step, metrics.batch = True, torch.zeros(2)
    metrics.log("t", 1.0, **options)
    sent = set(metrics.step_values(for_logger=True))
    metrics.in_step = False
    metrics.close_epoch()
    return metrics, sent | metrics.epoch_values(for_logger=True).keys()


@pytest.mark.parametrize("prog_bar", [True, False])
@pytest.mark.parametrize(("given", "names"), RECORDED, ids=str)
def test_names_are_those_of_lightning(given, names, prog_bar):
    on_step, on_epoch, loaders, add = given
    options = {"on_step": on_step, "on_epoch": on_epoch, "prog_bar": prog_bar}
    if names is None:
        with pytest.raises(ConfigurationError, match="would keep nothing"):
            train(**options), validate(loaders, add, **options)
        return
    training, sent_in_training = train(**options)
    validation, sent = validate(loaders, add, **options)
    callback, logged, bar, results = names
    assert training.values().keys() | validation.values().keys() == full(callback)
    assert sent_in_training | sent == full(logged)
    shown = training.progress_bar_values().keys() | validation.progress_bar_values().keys()
    assert shown == (full(bar) if prog_bar else set())
    assert [result.keys() for result in validation.results(loaders)] == [
        full(result) for result in results
    ]
