"""Lightning's callbacks, and those written for its Callback class, are given to torchrelay's Trainer as they are."""

from __future__ import annotations

import importlib
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import torchrelay
from torchrelay.errors import ConfigurationError
from torchrelay.loggers import CSVLogger
from torchrelay.trainer.equipment import UNFIT
from torchrelay.trainer.hooks import Hooks

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")


@pytest.fixture(scope="session")
def lightnings() -> Any:
    return importlib.import_module("lightning.pytorch.callbacks")


@pytest.fixture
def module(recording: Any) -> Any:
    return recording.make_module(torchrelay, recording.Log())


def test_only_hooks_that_are_overridden_listen(lightnings, module):
    class One(lightnings.Callback):
        def on_train_start(self, trainer, pl_module):
            pass

    class Plain(torchrelay.LightningModule):
        pass

    hooks = Hooks(None, Plain(), [One(), lightnings.LambdaCallback(on_test_end=print)])
    assert hooks.get("on_train_start") is not None
    assert hooks.get("on_test_end") is not None
    assert hooks.get("on_train_batch_start") is None
    assert hooks.get("on_validation_end") is None


def test_early_stopping(lightnings, module, make_trainer):
    stopping = lightnings.EarlyStopping("val_loss", patience=1, min_delta=10)
    trainer = make_trainer(torchrelay, callbacks=[stopping], max_epochs=9)
    trainer.fit(module)
    assert (trainer.current_epoch, stopping.stopped_epoch) == (2, 1)
    assert trainer.early_stopping_callback is stopping


def test_timer(lightnings, module, make_trainer):
    timer = lightnings.Timer(timedelta(seconds=0.05))
    make_trainer(torchrelay, callbacks=[timer], max_epochs=10**6).fit(module)
    assert timer.time_elapsed("train") >= 0.05


def test_model_checkpoint_and_an_exact_resume(lightnings, recording, make_trainer, tmp_path):
    def fresh() -> Any:
        return recording.make_module(torchrelay, recording.Log())

    keeper = lightnings.ModelCheckpoint(tmp_path / "kept", every_n_train_steps=3, save_top_k=-1)
    trainer = make_trainer(torchrelay, callbacks=[keeper], enable_checkpointing=True)
    trainer.fit(whole := fresh())
    assert trainer.checkpoint_callbacks == [keeper]
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt"]
    for name in kept:
        resumed = fresh()
        make_trainer(torchrelay).fit(resumed, ckpt_path=tmp_path / "kept" / name)
        assert torch.equal(resumed.net.weight, whole.net.weight)
    assert trainer.test(whole, ckpt_path="best", verbose=False)


def test_the_state_of_a_callback_travels(lightnings, recording, make_trainer, tmp_path):
    class Counting(lightnings.Callback):
        count = 0

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state_dict):
            self.count = state_dict["count"]

    trainer = make_trainer(torchrelay, callbacks=[Counting()])
    trainer.fit(recording.make_module(torchrelay, recording.Log()))
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    counting = Counting()
    trainer = make_trainer(torchrelay, callbacks=[counting], max_epochs=3)
    trainer.fit(recording.make_module(torchrelay, recording.Log()), ckpt_path=tmp_path / "it.ckpt")
    assert counting.count == 12


def test_spike_detection(lightnings, module, make_trainer, tmp_path):
    detection = lightnings.SpikeDetection(
        window=2, warmup=100, exclude_batches_path=tmp_path / "excluded.json", finite_only=False
    )
    make_trainer(torchrelay, callbacks=[detection], max_epochs=1).fit(module)
    assert isinstance(detection.last_val, (float, torch.Tensor))


@pytest.mark.parametrize("name", ["TQDMProgressBar", "RichProgressBar"])
def test_progress_bars(lightnings, module, make_trainer, capsys, name):
    bar = getattr(lightnings, name)()
    trainer = make_trainer(torchrelay, callbacks=[bar], enable_progress_bar=True)
    trainer.fit(module)
    trainer.validate(module, verbose=False)
    trainer.predict(module)
    assert trainer.progress_bar_callback is bar
    assert sum("ProgressBar" in type(each).__name__ for each in trainer.callbacks) == 1
    told = "".join(capsys.readouterr())
    assert "4/4" in told


@pytest.mark.parametrize("name", ["ModelSummary", "RichModelSummary"])
def test_summaries(lightnings, module, make_trainer, capsys, caplog, monkeypatch, name):
    caplog.set_level("INFO", "lightning.pytorch")
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    summary = getattr(lightnings, name)()
    make_trainer(torchrelay, callbacks=[summary], enable_model_summary=True).fit(module)
    assert "Trainable params" in capsys.readouterr().out + caplog.text


def test_a_backbone_is_thawed(lightnings, recording, make_trainer):
    def optimizer(self: Any) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    module = recording.make_module(torchrelay, recording.Log(), configure_optimizers=optimizer)
    module.backbone, module.net = module.net, torch.nn.Sequential(module.net, torch.nn.Linear(1, 1))
    before = module.backbone.weight.clone()
    thawing = lightnings.BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.1)
    make_trainer(torchrelay, callbacks=[thawing], max_epochs=3).fit(module)
    assert all(each.requires_grad for each in module.backbone.parameters())
    assert not torch.equal(module.backbone.weight, before)


def test_pruning(lightnings, module, make_trainer):
    pruning = lightnings.ModelPruning(
        "l1_unstructured", amount=1, parameters_to_prune=[(module.net, "weight")]
    )
    make_trainer(torchrelay, callbacks=[pruning], max_epochs=1).fit(module)
    assert int((module.net.weight == 0).sum()) == 1


def test_documented_attributes_of_the_trainer(lightnings, module, make_trainer, tmp_path):
    told: dict[str, Any] = {}

    class Curious(lightnings.Callback):
        def on_train_start(self, trainer, pl_module):
            assert trainer.lightning_module is pl_module
            assert trainer.is_global_zero
            trainer.strategy.barrier("here")
            told["broadcast"] = trainer.strategy.broadcast({"a": 1})
            told["reduce"] = trainer.strategy.reduce(torch.tensor(2.0), reduce_op="sum")
            told["agreed"] = trainer.strategy.reduce_boolean_decision(True)
            told["shape"] = trainer.strategy.all_gather(torch.zeros(3)).shape
            told["state"] = (trainer.state.fn, trainer.state.stage)

        def on_validation_batch_end(
            self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
        ):
            told["evaluating"] = (trainer.evaluating, trainer.training, *trainer.num_val_batches)
            stages = told.setdefault("stages", [])
            stages += [trainer.state.stage] if trainer.state.stage not in stages else []

        def on_train_epoch_end(self, trainer, pl_module):
            told["metrics"] = sorted(trainer.callback_metrics)
            told["logged"] = sorted(trainer.logged_metrics)
            told["length"] = len(trainer.train_dataloader)
            told["rate"] = trainer.optimizers[0].param_groups[0]["lr"]

    logger = CSVLogger(tmp_path)
    trainer = make_trainer(torchrelay, callbacks=[Curious()], logger=logger, log_every_n_steps=1)
    trainer.fit(module)
    assert told == {
        "broadcast": {"a": 1},
        "reduce": torch.tensor(2.0),
        "agreed": True,
        "shape": (1, 3),
        "state": ("fit", "train"),
        "evaluating": (True, False, 2),
        "stages": ["sanity_check", "validate"],
        "metrics": ["loss", "val_loss"],
        "logged": ["loss", "val_loss"],
        "length": 4,
        "rate": 0.1,
    }
    assert Path(trainer.log_dir).is_dir()


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_work_is_refused(lightnings, make_trainer, name):
    callback = object.__new__(type("Mine", (getattr(lightnings, name),), {}))
    with pytest.raises(ConfigurationError, match=f"Mine, and Lightning's {name} .*; (take|leave)"):
        make_trainer(torchrelay, callbacks=[callback])


def test_every_callback_of_lightnings_is_known(lightnings):
    """A new one is to be tried, and then listed here, or refused."""
    tried = {
        *("BackboneFinetuning", "BaseFinetuning", "Callback", "Checkpoint", "EarlyStopping"),
        *("LambdaCallback", "ModelCheckpoint", "ModelPruning", "ModelSummary", "ProgressBar"),
        *("RichModelSummary", "RichProgressBar", "SpikeDetection"),
        *("TQDMProgressBar", "Timer", "EMAWeightAveraging"),
    }
    assert tried | set(UNFIT) == set(lightnings.__all__)
