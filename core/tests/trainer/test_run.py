from __future__ import annotations

import pytest
from torch import nn

from torchrelay import Callback, Trainer
from torchrelay.launchers import Launcher
from torchrelay.loggers import Logger
from torchrelay.plugin import registry as registry_module
from torchrelay.plugin.discovery import discover
from torchrelay.plugin.registry import Registry
from torchrelay.strategies import SingleDeviceStrategy
from torchrelay.trainer import run

OBSERVER = """
    calls = []

    @hookimpl
    def torchrelay_before_launch(strategy):
        calls.append(("before_launch", strategy))

    @hookimpl
    def torchrelay_after_setup(strategy):
        calls.append(("after_setup", strategy))

    @hookimpl
    def torchrelay_on_exception(strategy, error):
        calls.append(("on_exception", strategy, error))

    @hookimpl
    def torchrelay_after_teardown(strategy):
        calls.append(("after_teardown", strategy))
"""


@pytest.fixture
def observed(site, monkeypatch):
    """What an installed plugin hears of a run."""
    name = site.plugin("acme-observer", OBSERVER)
    registry = Registry(discover(site.search, {}))
    monkeypatch.setattr(run, "get_registry", lambda: registry)
    assert registry_module.get_registry() is not registry
    return __import__(name).calls


def test_plugins_hear_of_a_run(boring, make_trainer, observed):
    trainer = make_trainer()
    trainer.fit(boring.regression(), boring.loader())
    strategy = trainer.strategy
    assert observed == [
        ("before_launch", strategy),
        ("after_setup", strategy),
        ("after_teardown", strategy),
    ]


def test_plugins_hear_of_an_exception(boring, make_trainer, observed):
    error = ZeroDivisionError("bug")

    def training_step(self, batch, batch_idx):
        raise error

    trainer = make_trainer()
    with pytest.raises(ZeroDivisionError):
        trainer.fit(boring.regression(training_step=training_step), boring.loader())
    names = ["before_launch", "after_setup", "on_exception", "after_teardown"]
    assert [call[0] for call in observed] == names
    assert observed[2] == ("on_exception", trainer.strategy, error)


class Elsewhere(Launcher):
    """Runs the function on copies of its arguments, as a launcher of processes does."""

    name = "elsewhere"
    returns_to_caller = True

    def launch(self, function, /, *args):
        import copy

        trainer, job = copy.deepcopy(args)
        return function(trainer, job)


def test_what_was_reached_elsewhere_comes_back(boring, make_trainer, tmp_path):
    from torchrelay.callbacks import ModelCheckpoint

    keeper = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss")
    strategy = SingleDeviceStrategy(launcher=Elsewhere())
    trainer = make_trainer(strategy=strategy, callbacks=keeper, max_epochs=2)
    module = boring.regression()
    trainer.fit(module, boring.loader(), boring.loader(8))

    expected, here = boring.regression(), make_trainer(max_epochs=2)
    here.fit(expected, boring.loader(), boring.loader(8))
    assert boring.difference(boring.weights(module), boring.weights(expected)) == 0.0
    assert (trainer.current_epoch, trainer.global_step) == (2, 10)
    assert trainer.callback_metrics == here.callback_metrics
    assert keeper.best_model_path == str(tmp_path / "epoch=1-step=10.ckpt")
    assert trainer.session is None
    assert trainer.test(module, boring.loader(), ckpt_path="best") == here.test(
        expected, boring.loader()
    )


def test_a_strategy_is_torn_down_after_a_failure_and_can_run_again(boring, make_trainer):
    calls = []

    class Noting(SingleDeviceStrategy):
        def on_exception(self, error):
            calls.append(str(error))

        def teardown(self):
            calls.append("teardown")
            super().teardown()

    def on_train_start(self):
        raise ZeroDivisionError("once")

    trainer: Trainer = make_trainer(strategy=Noting())
    with pytest.raises(ZeroDivisionError):
        trainer.fit(boring.regression(on_train_start=on_train_start), boring.loader())
    assert calls == ["once", "teardown"]
    trainer.fit(boring.regression(), boring.loader())
    assert trainer.global_step == 5


def test_loggers_and_the_strategy_end_though_a_teardown_hook_raises(boring, make_trainer):
    calls = []

    class Noting(SingleDeviceStrategy):
        def teardown(self):
            calls.append("teardown")
            super().teardown()

    class Ends(Logger):
        def log_metrics(self, metrics, step):
            pass

        def finalize(self, status):
            calls.append(status)

    def teardown(self, stage):
        raise ZeroDivisionError("bug")

    trainer = make_trainer(strategy=Noting(), logger=Ends())
    with pytest.raises(ZeroDivisionError):
        trainer.fit(boring.regression(teardown=teardown), boring.loader())
    assert calls == ["success", "teardown"]


@pytest.mark.parametrize("hook", ["configure_model", "setup"])
def test_a_module_that_makes_its_layers_in_the_run_is_resumed_elsewhere(
    boring, make_trainer, tmp_path, hook
):
    class Late(boring.Regression):
        def make(self, *_):
            if not hasattr(self, "late"):
                self.late = nn.Linear(1, 1)

    setattr(Late, hook, Late.make)

    def fit(epochs, **options):
        strategy = SingleDeviceStrategy(launcher=Elsewhere())
        trainer = make_trainer(strategy=strategy, max_epochs=epochs, callbacks=Saves(tmp_path))
        trainer.fit(Late(), boring.loader(), **options)
        return trainer

    fit(1)
    assert fit(2, ckpt_path=tmp_path / "end.ckpt").global_step == 10


class Saves(Callback):
    """Saves when training ends."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / "end.ckpt")
