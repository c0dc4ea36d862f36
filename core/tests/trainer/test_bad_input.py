"""Calls and checkpoints that cannot be are refused in one line, before anything has begun."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from torchrelay import Callback, LightningModule
from torchrelay.callbacks import ModelCheckpoint
from torchrelay.errors import CheckpointError, ConfigurationError
from torchrelay.loggers import CSVLogger
from torchrelay.testing.forkserver import shared_server


def without(name):
    return {name: getattr(LightningModule, name)}


class Bystander(Callback):
    """Fails the test if anything has begun."""

    def setup(self, trainer, pl_module, stage):
        pytest.fail("something has begun")


CALLS = {
    "no training_step": (
        "fit",
        without("training_step"),
        r"has no training_step; fit needs it: define training_step\(",
    ),
    "no optimizer": (
        "fit",
        without("configure_optimizers"),
        r"no configure_optimizers; fit needs it: define conf.*\(self\)",
    ),
    "no validation_step": (
        "validate",
        without("validation_step"),
        "has no validation_step; validate needs it",
    ),
    "no test_step": ("test", without("test_step"), "has no test_step; test needs it"),
    "no data to fit": (
        "fit",
        None,
        r"fit has no data: pass a data loader, or define train_dataloader\(\) in Regression",
    ),
    "no data to validate": (
        "validate",
        None,
        r"validate has no data: .* define val_dataloader\(\)",
    ),
    "no data to predict": (
        "predict",
        None,
        r"predict has no data: .* define predict_dataloader\(\)",
    ),
}


@pytest.mark.parametrize(("stage", "methods", "match"), CALLS.values(), ids=CALLS)
def test_calls(boring, make_trainer, stage, methods, match):
    data = [boring.loader()] if methods else []
    with pytest.raises(ConfigurationError, match=match):
        getattr(make_trainer(callbacks=Bystander()), stage)(
            boring.regression(**methods or {}), *data
        )


@pytest.mark.parametrize(
    "model", [torch.nn.Linear(1, 1), LightningModule, None], ids=["module", "class", "none"]
)
def test_something_that_is_no_lightning_module(make_trainer, model):
    with pytest.raises(
        ConfigurationError, match=r"fit needs a torchrelay.LightningModule, not \w+"
    ):
        make_trainer(callbacks=Bystander()).fit(model, [1])


@pytest.mark.parametrize("path", ["best", "last"])
def test_a_checkpoint_that_was_never_kept(boring, make_trainer, path):
    with pytest.raises(
        ConfigurationError,
        match=f'ckpt_path="{path}": no .*Checkpoint.*; (fit|keep one) with ',
    ):
        make_trainer().test(boring.regression(), boring.loader(), ckpt_path=path)


def missing(path, trainer):
    return path, "does not exist"


def folder(path, trainer):
    path.mkdir()
    return path, "is a folder, not a checkpoint; name the file in it"


def truncated(path, trainer):
    trainer.save_checkpoint(path)
    os.truncate(path, path.stat().st_size // 2)
    return (
        path,
        r"cannot read the checkpoint .* bytes\): it was cut off or damaged.*take another one",
    )


def pickled(path, trainer):
    torch.save({"state_dict": {}, "callbacks": {"mine": Bystander()}}, path)
    return path, r"carries pickled code: .*Bystander; if you trust the file, .*weights_only=False"


def bare_weights(path, trainer):
    torch.save({"net.0.weight": torch.ones(1)}, path)
    return path, "no 'state_dict', only 'net.0.weight'; to load bare weights"


def from_another_model(path, trainer):
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["state_dict"]
    state["head.weight"] = state.pop("net.3.weight")
    state["net.3.bias"] = torch.ones(7)
    torch.save(checkpoint, path)
    return path, (
        r"does not fit Regression: of another shape net.3.bias \(7,\) for \(1,\); missing net.3.weight; "
        "unexpected head.weight; load it into the model that it was saved from"
    )


def from_the_future(path, trainer):
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["torchrelay"] |= {"schema": 99, "torchrelay": "9.0"}
    torch.save(checkpoint, path)
    return path, 'torchrelay 9.0 wrote the checkpoint in form 99, .*pip install "torchrelay>=9.0"'


@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize(
    "make",
    [missing, folder, truncated, pickled, bare_weights, from_another_model, from_the_future],
    ids=lambda make: make.__name__,
)
def test_checkpoints(boring, make_trainer, tmp_path, make, stage):
    trainer = make_trainer()
    trainer.fit(boring.regression(), boring.loader())
    path, match = make(tmp_path / "it.ckpt", trainer)
    steps = []
    hook = lambda self, *args: steps.append(args)  # noqa: E731
    module = boring.regression(on_fit_start=hook, on_train_start=hook, on_test_start=hook)
    with pytest.raises(CheckpointError, match=match) as caught:
        getattr(make_trainer(), stage)(module, boring.loader(), ckpt_path=path)
    assert "\n" not in str(caught.value)
    assert steps == []


def test_pickled_code_is_loaded_on_request(boring, make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.fit(boring.regression(), boring.loader())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    checkpoint = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    torch.save({**checkpoint, "mine": Bystander()}, tmp_path / "code.ckpt")
    with pytest.raises(CheckpointError, match="carries pickled code"):
        trainer.fit(boring.regression(), boring.loader(), ckpt_path=tmp_path / "code.ckpt")
    again = make_trainer(max_epochs=2)
    again.fit(
        boring.regression(), boring.loader(), ckpt_path=tmp_path / "code.ckpt", weights_only=False
    )
    assert again.current_epoch == 2


SCRIPT = """\
import torch
from torchrelay import LightningModule, Trainer


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        self.log("loss", batch)
        return str(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


trainer = Trainer(accelerator="cpu", fast_dev_run=True, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Module(), {data})
"""


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        ("['x']", 11, "log('loss', ...): a str is not a number; log a number or a 0-dim tensor"),
        # Raised in a closure that torch's optimizer calls: the line is still the user's.
        (
            "[1.0]",
            19,
            "training_step returned str; return the loss (a 0-dim tensor), a dict whose 'loss' is one, or None to "
            "skip the update",
        ),
    ],
)
@pytest.mark.timeout(60)
def test_a_script_prints_one_line_with_the_users_own(tmp_path, data, line, message):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.replace("{data}", data))
    done = shared_server().run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{script}:{line}: error: {message}\n"


def test_data_that_is_no_data(boring, make_trainer):
    with pytest.raises(
        ConfigurationError, match=r"^fit got 5 as the data of train; give a DataLoader"
    ):
        make_trainer().fit(boring.regression(), 5)


def test_a_checkpoint_path_that_is_no_path(boring, make_trainer):
    with pytest.raises(
        ConfigurationError, match=r'^ckpt_path=5 must be a path, "best", "last", "hpc" or None$'
    ):
        make_trainer().fit(boring.regression(), boring.loader(), ckpt_path=5)


def test_a_loss_that_is_no_number(boring, make_trainer):
    module = boring.regression(training_step=lambda self, batch, batch_idx: self(batch[0]))
    with pytest.raises(
        ConfigurationError, match=r"a loss of shape \(.*\); reduce it to one number"
    ):
        make_trainer().fit(module, boring.loader())


@pytest.mark.parametrize("who", ["root", "dirpath", "logger"])
def test_a_folder_that_cannot_be(boring, make_trainer, tmp_path, who):
    blocked = tmp_path / "file" / "runs"
    (tmp_path / "file").touch()
    options, message = {
        "root": ({"default_root_dir": blocked}, "ModelCheckpoint cannot .*; give default_root_dir"),
        "dirpath": ({}, "ModelCheckpoint cannot write to .*; give dirpath that can be written"),
        "logger": ({"logger": CSVLogger(blocked)}, "CSVLogger cannot .*; give default_root_dir or"),
    }[who]
    callbacks = [Bystander()]
    if who != "logger":
        callbacks.append(ModelCheckpoint(blocked if who == "dirpath" else None))
    trainer = make_trainer(callbacks=callbacks, **options)
    with pytest.raises(ConfigurationError, match=message) as caught:
        trainer.fit(boring.regression(), boring.loader())
    assert f"{tmp_path / 'file'} is a file" in str(caught.value)
    trainer = make_trainer(callbacks=callbacks[1:], fast_dev_run=True, **options)
    trainer.fit(boring.regression(), boring.loader())  # where nothing is written, nothing is asked


def test_nothing_is_made_to_find_out_whether_it_can_be(boring, make_trainer, tmp_path):
    place = tmp_path / "later" / "runs"
    trainer = make_trainer(default_root_dir=place, max_epochs=0, callbacks=ModelCheckpoint())
    trainer.fit(boring.regression(), boring.loader())
    assert not place.parent.exists()
