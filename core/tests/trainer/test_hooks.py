from __future__ import annotations

import pytest

from torchrelay import Callback, LightningModule
from torchrelay.callbacks.callback import Checkpointer
from torchrelay.module import ModuleHooks
from torchrelay.trainer.hooks import Hooks

NAMES = sorted(n for n in vars(ModuleHooks) if n.startswith("on_"))
# Called by the trainer itself, around the run or with a checkpoint at hand.
UNCOMBINED = {"on_exception", "on_save_checkpoint", "on_load_checkpoint"}


def recording(base, who, calls, names):
    """A subclass of `base` whose hooks write `who` and the hook's name into `calls`."""

    def hook(name):
        return lambda self, *args: calls.append(f"{who}.{name}")

    return type("Recording", (base,), {name: hook(name) for name in names})


def once(name):
    return [f"callback.{name}", f"module.{name}"]


VALIDATION_BATCH = [*once("on_validation_batch_start"), *once("on_validation_batch_end")]
VALIDATION = [
    *once("on_validation_start"),
    *once("on_validation_epoch_start"),
    *VALIDATION_BATCH,
    *VALIDATION_BATCH,
    *once("on_validation_epoch_end"),
    *once("on_validation_end"),
]
COMPUTE = [*once("on_before_backward"), *once("on_after_backward")]
FIRST_OF_WINDOW = [*once("on_train_batch_start"), *once("on_before_zero_grad"), *COMPUTE]
BOUNDARY = [*once("on_train_batch_start"), *COMPUTE, *once("on_before_optimizer_step")]
WINDOW = [*FIRST_OF_WINDOW, *once("on_train_batch_end"), *BOUNDARY, *once("on_train_batch_end")]
FIT = [
    *once("on_fit_start"),
    "callback.on_sanity_check_start",
    *VALIDATION,
    "callback.on_sanity_check_end",
    *once("on_train_start"),
    *once("on_train_epoch_start"),
    *WINDOW,
    *WINDOW,
    *VALIDATION,
    *once("on_train_epoch_end"),
    *once("on_train_end"),
    *once("on_fit_end"),
]


def test_the_order_of_a_fit_with_validation(boring, make_trainer):
    calls = []
    names = [*NAMES, "on_sanity_check_start", "on_sanity_check_end"]
    module = recording(boring.Regression, "module", calls, NAMES)()
    callback = recording(Callback, "callback", calls, [*names, "setup", "teardown"])()
    trainer = make_trainer(callbacks=callback, accumulate_grad_batches=2)
    trainer.fit(module, boring.loader(16), boring.loader(8))
    assert calls == ["callback.setup", *FIT, "callback.teardown"]


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_the_order_of_an_evaluation(boring, make_trainer, stage):
    calls = []
    module = recording(boring.Regression, "module", calls, NAMES)()
    callback = recording(Callback, "callback", calls, NAMES)()
    getattr(make_trainer(callbacks=callback), stage)(module, boring.loader(8))
    prefix = {"validate": "validation"}.get(stage, stage)
    assert calls == [call.replace("validation", prefix) for call in VALIDATION]


def test_the_order_around_checkpoints(boring, make_trainer, tmp_path):
    calls = []
    names = ["on_save_checkpoint", "on_load_checkpoint", "on_fit_start", "on_train_epoch_end"]
    module = recording(boring.Regression, "module", calls, names)()

    class Keeper(recording(Callback, "callback", calls, names), Checkpointer):
        def on_resumable_point(self, trainer, pl_module, reason):
            calls.append(reason)
            if reason == "epoch":
                trainer.save_checkpoint(tmp_path / "one.ckpt")

    make_trainer(callbacks=Keeper()).fit(module, boring.loader(8))
    saved = [*once("on_fit_start"), "step", "step", *once("on_train_epoch_end"), "epoch"]
    assert calls == [*saved, *once("on_save_checkpoint")]
    calls.clear()
    make_trainer(callbacks=Keeper()).fit(module, boring.loader(8), ckpt_path=tmp_path / "one.ckpt")
    told = [
        f"{who}.on_load_checkpoint" for who in ("module", "callback")
    ]  # the module may make layers
    assert calls == [*told, *once("on_fit_start")]


def test_every_hook_of_a_module_is_a_hook_of_callbacks_with_the_same_arguments():
    for name in NAMES:
        own = vars(ModuleHooks)[name].__code__.co_varnames
        of_callback = vars(Callback)[name].__code__.co_varnames
        assert of_callback == ("self", "trainer", "pl_module", *own[1:]), name


def test_a_hook_that_nobody_overrides_is_none():
    hooks = Hooks(None, LightningModule(), [Callback(), Checkpointer()])
    assert {name: hooks.get(name) for name in NAMES} == dict.fromkeys(NAMES)
    hooks.call("on_fit_start")


def test_a_hook_is_looked_up_once_and_called_on_callbacks_before_the_module():
    calls = []
    module = LightningModule()
    module.on_train_start = lambda: calls.append("module")  # on the instance counts as well

    class Listener(Callback):
        def __init__(self, name):
            self.name = name

        def on_train_start(self, trainer, pl_module):
            calls.append((self.name, trainer, pl_module is module))

    hooks = Hooks("trainer", module, [Listener("one"), Callback(), Listener("two")])
    assert hooks.get("on_train_start") is hooks.get("on_train_start")
    hooks.call("on_train_start")
    assert calls == [("one", "trainer", True), ("two", "trainer", True), "module"]


def test_what_a_modules_hook_returns_comes_back():
    module = LightningModule()
    module.on_train_batch_start = lambda batch, batch_idx: -1
    assert Hooks(None, module, []).get("on_train_batch_start")("batch", 0) == -1


@pytest.mark.parametrize("raising", ["training_step", "on_fit_start", "validation_step"])
def test_callbacks_hear_of_an_exception_and_are_torn_down(boring, make_trainer, raising):
    calls = []

    def fail(self, *args):
        raise ZeroDivisionError("bug")

    callback = recording(Callback, "callback", calls, ["on_exception", "on_fit_end", "teardown"])()
    module = boring.regression(**{raising: fail})
    with pytest.raises(ZeroDivisionError, match="bug"):
        make_trainer(callbacks=callback).fit(module, boring.loader(), boring.loader())
    assert calls == ["callback.on_exception", "callback.teardown"]
    assert module.current_epoch == 0  # detached from its trainer
