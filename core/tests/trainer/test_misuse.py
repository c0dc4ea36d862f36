"""One misuse of every argument of the Trainer, refused in one line before anything is started."""

from __future__ import annotations

import inspect

import pytest

from torchrelay import Trainer
from torchrelay.errors import UserError

MISUSE = {
    "strategy": ({"strategy": "ddpp"}, "no strategy is called 'ddpp'"),
    "accelerator": ({"accelerator": "cpuu"}, "no accelerator is called 'cpuu'"),
    "devices": ({"devices": 0}, "devices=0"),
    "num_nodes": ({"num_nodes": 0}, "num_nodes=0"),
    "precision": ({"precision": "33"}, "no precision is called '33'"),
    "plugins": ({"plugins": 3}, "plugins has 3"),
    "callbacks": ({"callbacks": print}, "callbacks has <built-in function print>"),
    "logger": ({"logger": "csv"}, "logger='csv' has no log_metrics"),
    "max_epochs": ({"max_epochs": -2}, "max_epochs=-2 must be a whole number from -1"),
    "min_epochs": ({"min_epochs": 1.5}, "min_epochs=1.5 must be a whole number from 0"),
    "max_steps": ({"max_steps": None}, "max_steps=None must be a whole number from -1"),
    "min_steps": ({"min_steps": -1}, "min_steps=-1 must be a whole number from 0"),
    "max_time": ({"max_time": "1 hour"}, "'1 hour'.*must be a datetime.timedelta"),
    "limit_train_batches": ({"limit_train_batches": 1.5}, "limit_train_batches=1.5 must be"),
    "limit_val_batches": ({"limit_val_batches": -1}, "limit_val_batches=-1 must be"),
    "limit_test_batches": ({"limit_test_batches": "all"}, "limit_test_batches='all' must be"),
    "limit_predict_batches": ({"limit_predict_batches": True}, "limit_predict_batches=True"),
    "overfit_batches": (
        {"overfit_batches": 2, "limit_val_batches": 3},
        "overfit_batches=2 and limit_val_batches=3 both say",
    ),
    "fast_dev_run": ({"fast_dev_run": -1}, "fast_dev_run=-1 must be"),
    "val_check_interval": ({"val_check_interval": 1.5}, "val_check_interval=1.5 must be"),
    "check_val_every_n_epoch": (
        {"check_val_every_n_epoch": None},
        "check_val_every_n_epoch=None counts batches.*val_check_interval=1000",
    ),
    "num_sanity_val_steps": ({"num_sanity_val_steps": -2}, "num_sanity_val_steps=-2 must be"),
    "log_every_n_steps": ({"log_every_n_steps": -1}, "log_every_n_steps=-1 must be"),
    "reload_dataloaders_every_n_epochs": (
        {"reload_dataloaders_every_n_epochs": -1},
        "reload_dataloaders_every_n_epochs=-1 must be",
    ),
    "accumulate_grad_batches": ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0 must"),
    "gradient_clip_val": ({"gradient_clip_val": -1.0}, "gradient_clip_val=-1.0 must be"),
    "gradient_clip_algorithm": (
        {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "size"},
        "gradient_clip_algorithm='size' must be 'norm' or 'value'",
    ),
    "use_distributed_sampler": ({"use_distributed_sampler": None}, "=None must be True or False$"),
    "sync_batchnorm": ({"sync_batchnorm": "yes"}, "sync_batchnorm='yes' must be True or False$"),
    "inference_mode": ({"inference_mode": 1}, "inference_mode=1 must be True or False$"),
    "deterministic": ({"deterministic": "yes"}, "deterministic='yes' must be"),
    "benchmark": ({"benchmark": True, "deterministic": True}, "contradict each other"),
    "detect_anomaly": ({"detect_anomaly": None}, "detect_anomaly=None must be"),
    "profiler": ({"profiler": "simpel"}, "simpel.*simple"),
    "hang_timeout": ({"hang_timeout": -1}, "hang_timeout=-1"),
    "barebones": (
        {"barebones": True, "logger": True, "num_sanity_val_steps": 3},
        "barebones=True does without logger=True, num_sanity_val_steps=3",
    ),
    "enable_progress_bar": ({"enable_progress_bar": "no"}, "='no' must be True or False or None"),
    "enable_checkpointing": ({"enable_checkpointing": 0}, "=0 must be True or False or None"),
    "enable_model_summary": ({"enable_model_summary": 1}, "=1 must be True or False or None"),
    "enable_autolog_hparams": ({"enable_autolog_hparams": None}, "=None must be True or False$"),
    "default_root_dir": ({"default_root_dir": 5}, "default_root_dir=5 must be a path"),
}


def test_there_is_one_for_every_argument():
    assert list(MISUSE) == list(inspect.signature(Trainer).parameters)


@pytest.mark.parametrize(("arguments", "match"), MISUSE.values(), ids=MISUSE)
def test_misuse(arguments, match):
    with pytest.raises(UserError, match=match) as caught:
        Trainer(**{"accelerator": "cpu", **arguments})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
