"""What IPUStrategy has to do under each of PopTorch's rules: checks that broken strategies must fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import poptorch
import torch
from poptorch import hardware
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from torchrelay import Trainer
from torchrelay.callbacks import Callback
from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.testing.models import FEATURES, Regression, samples
from torchrelay.testing.numerics_problems import Final, Normalized, Trained
from torchrelay_ipu import IPUStrategy
from torchrelay_ipu.vendor import IPUError

BATCH, BATCHES = 4, 7
QUIET = {
    "max_epochs": 1,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "logger": False,
    "num_sanity_val_steps": 0,
}
NEAR = 1e-5


# --- runs -----------------------------------------------------------------------------------------------


def trainer(strategy: Any = None, devices: int = 2, **options: Any) -> Trainer:
    """A silent Trainer on the simulated device."""
    strategy = "ipu_strategy" if strategy is None else strategy
    return Trainer(
        **{**QUIET, **options}, strategy=strategy, accelerator="ipu_sim", devices=devices
    )


def alone(**options: Any) -> Trainer:
    """The same in one process on the processor."""
    return Trainer(**{**QUIET, **options}, strategy="single_device", accelerator="cpu", devices=1)


def data(number: int = BATCH * BATCHES) -> DataLoader[Any]:
    return DataLoader(samples(number), BATCH)


def fitted(made: Trainer, module: Any, *loaders: Any) -> dict[str, torch.Tensor]:
    """The weights that training ends with."""
    final = Final()
    made.callbacks.append(final)
    made.fit(module, *(loaders or (data(),)))
    return final.state


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def same(make: Any, *loaders: Any, strategy: Any = None, devices: int = 2, **options: Any) -> None:
    """A training arrives where one process does."""
    mine = fitted(trainer(strategy, devices, **options), make(), *loaders)
    theirs = fitted(alone(**options), make(), *loaders)
    assert apart(mine, theirs) <= NEAR, apart(mine, theirs)


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    """What is to be refused, by these words."""
    try:
        yield
    except kind as error:
        text = str(error)
        assert "\n" not in text, text
        assert all(word in text for word in words), text
        return
    raise AssertionError(f"not refused by {kind.__name__}")


@contextmanager
def machine(**variables: str) -> Iterator[None]:
    """The environment with some variables, and all IPUs free."""
    before = dict(os.environ)
    os.environ.update(variables)
    hardware.owners.clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        hardware.owners.clear()


class Ramp(Regression):
    """One weight whose gradient is 1, so that each update takes the learning rate off it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Module()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.weight.sum() + 0 * batch[0].sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(float(self.trainer.strategy.model_state()["weight"]))

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=1.0)
        schedule = LambdaLR(optimizer, lambda update: 1.0 / (1 + update))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Logging(Regression):
    """Logs in every step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, False, None, True, True)
        for reduce_fx, value in (
            ("max", batch[1].max()),
            (torch.min, batch[1].min()),
            ("SUM", batch[1].sum()),
        ):
            name = getattr(reduce_fx, "__name__", reduce_fx)
            self.log(name, value, on_step=True, on_epoch=True, reduce_fx=reduce_fx)
        self.log_dict({"number": 2.0}, on_step=False, on_epoch=True)
        return {"loss": loss, "rows": batch[0].detach()}


class Losses(Callback):
    """Keeps what each training step returned."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, t: Any, m: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(float(outputs["loss"] if isinstance(outputs, dict) else outputs))


def adam() -> Trained:
    return Trained(partial(AdamW, lr=0.02, weight_decay=0.1))


def momentum() -> Trained:
    return Trained(partial(SGD, lr=0.05, momentum=0.9))


# --- 1: weights apart from the host's -------------------------------------------------------------------


class Replaces(Ramp):
    """Puts other weights into the middle of a training."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if batch_idx == 1:
            self.trainer.strategy.load_model_state({"weight": torch.tensor([10.0])})


def loaded_weights_reach_the_device() -> None:
    module = Replaces()
    trainer().fit(module, data())
    assert abs(module.seen[1] - -1.5) <= NEAR
    assert abs(module.seen[2] - (10 - 1 / 3)) <= NEAR


def trained_weights_reach_the_host() -> None:
    module = adam()
    found = fitted(trainer(), module)
    assert apart(dict(module.state_dict()), found) == 0
    assert all(type(each) is nn.Parameter for each in module.parameters())
    assert apart(found, dict(adam().state_dict())) > 0.01


# --- 2: options -----------------------------------------------------------------------------------------


def options_of_the_user_are_copied() -> None:
    options = poptorch.Options().replicationFactor(2)
    strategy = IPUStrategy(training_opts=options, inference_opts=options)
    same(adam, data(BATCH * BATCHES - 2), data(), strategy=strategy)
    assert options.output_mode == poptorch.OutputMode.Default.value
    options.deviceIterations(1)  # not frozen


# --- 3: batches, micro-batches and outputs --------------------------------------------------------------


def windows_are_those_of_one_process() -> None:
    same(momentum, accumulate_grad_batches=3)  # of 7 batches: the last window is a short one


def several_updates_in_a_call() -> None:
    strategy = IPUStrategy(device_iterations=3)
    many = trainer(strategy, accumulate_grad_batches=2)
    mine = fitted(many, momentum(), data(12 * BATCH))
    assert many.global_step == 6
    theirs = fitted(alone(accumulate_grad_batches=2), momentum(), data(12 * BATCH))
    assert apart(mine, theirs) <= NEAR


def the_loss_is_that_of_all_micro_batches() -> None:
    mine, theirs = Losses(), Losses()
    trainer(callbacks=mine).fit(Trained(), data())
    alone(callbacks=theirs).fit(Trained(), data())
    assert max(abs(a - b) for a, b in zip(mine.found, theirs.found, strict=True)) <= NEAR


def predictions_are_all_there() -> None:
    options = poptorch.Options().deviceIterations(2).replicationFactor(2)
    found = trainer(IPUStrategy(inference_opts=options)).predict(Regression(), data(28))
    expected = alone().predict(Regression(), data(28))
    assert apart(dict(enumerate(found)), dict(enumerate(expected))) <= NEAR


# --- 4: shapes ------------------------------------------------------------------------------------------


def a_short_last_batch_is_trained_on() -> None:
    same(adam, data(BATCH * BATCHES - 2), max_epochs=2)


def resized(*sizes: int) -> list[Any]:
    return [samples(size).tensors for size in sizes]


def a_smaller_batch_in_the_middle_is_refused() -> None:
    words = ("training_step", "(4, 8)", "(2, 8)", "follow", "drop_last=True")
    for sizes in ((4, 2, 4, 2), (4, 4, 2, 4)):
        with refused(ConfigurationError, *words):
            trainer().fit(Regression(), resized(*sizes))
    with refused(ConfigurationError, "(2, 8)", "follow", "drop_last=True"):
        trainer().fit(Regression(), resized(4, 2, 2))
    with refused(ConfigurationError, "validation_step", *words[1:]):
        trainer().validate(Regression(), resized(4, 2, 4))
    with refused(ConfigurationError, "batch 1 of a window", "axis 0 has size 2", "drop_last=True"):
        trainer(accumulate_grad_batches=2).fit(Regression(), resized(4, 4, 4, 2))
    same(adam, resized(4, 4, 2), resized(4, 2), max_epochs=3, val_check_interval=1)


class Ragged(torch.utils.data.Dataset):
    """Batches whose second axis grows."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, at: int) -> Any:
        return torch.ones(BATCH, FEATURES + at // 2), torch.ones(BATCH, 1)


def another_shape_is_refused() -> None:
    words = ("training_step", "tensor 0", "axis 1 has size 9", "8 is expected", "drop_last=True")
    with refused(ConfigurationError, *words):
        trainer().fit(Regression(), DataLoader(Ragged(), batch_size=None))


def another_value_is_refused() -> None:
    batches = [[*samples(BATCH).tensors, at] for at in range(2)]

    class Valued(Regression):
        def loss(self, batch: Any) -> torch.Tensor:
            return super().loss(batch[:2]) * (batch[2] + 1)

    with refused(ConfigurationError, "no tensor"):
        trainer().fit(Valued(), batches)


def what_cannot_be_divided_is_refused() -> None:
    with refused(ConfigurationError, "axis 0 has size 3", "a multiple of 2", "drop_last=True"):
        trainer().fit(Regression(), data(27))


# --- 5: the loss ----------------------------------------------------------------------------------------


class OwnBackward(Trained):
    """Overrides backward."""

    heard = 0

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        self.heard += 1
        super().backward(loss, *args, **kwargs)


def the_loss_is_marked() -> None:
    module = OwnBackward()
    fitted(trainer(), module)
    assert module.heard == BATCHES


class Lossless(Regression):
    """Returns nothing."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.loss(batch)


def a_missing_loss_is_refused() -> None:
    with refused(UnsupportedError, "runs once, when it is traced"):
        trainer().fit(Lossless(), data())


# --- 6: one owner ---------------------------------------------------------------------------------------


def stages_take_turns() -> None:
    made = trainer(val_check_interval=2, num_sanity_val_steps=1)
    reference = alone(val_check_interval=2, num_sanity_val_steps=1)
    mine, theirs = (fitted(each, adam(), data(), data()) for each in (made, reference))
    assert apart(mine, theirs) <= NEAR
    losses = [float(each.callback_metrics["val_loss"]) for each in (made, reference)]
    assert abs(losses[0] - losses[1]) <= NEAR
    assert not hardware.owners


# --- 7: the optimizer -----------------------------------------------------------------------------------


def learning_rates_reach_the_device() -> None:
    module = Ramp()
    trainer().fit(module, data())
    taken = [a - b for a, b in zip([0.0, *module.seen], module.seen, strict=False)]
    assert all(abs(each - 1 / (1 + at)) <= NEAR for at, each in enumerate(taken)), taken


class State(Callback):
    """Keeps the optimizer's state at the end."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        strategy = trainer.strategy
        self.found = strategy.optimizer_state(strategy.optimizers[0])


def optimizer_state_comes_back() -> None:
    mine, theirs = State(), State()
    for make in (adam, momentum):
        trainer(callbacks=mine).fit(make(), data())
        alone(callbacks=theirs).fit(make(), data())
        assert mine.found["state"].keys() == theirs.found["state"].keys()
        for name, expected in theirs.found["state"].items():
            assert mine.found["state"][name].keys() == expected.keys()
            assert apart(mine.found["state"][name], expected) <= NEAR


class Hands(Ramp):
    """Hands over a state of Adam in the middle of a training."""

    def configure_optimizers(self) -> Any:
        return AdamW(self.parameters(), lr=0.1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        strategy = self.trainer.strategy
        (optimizer,) = strategy.optimizers
        if batch_idx == 1:
            state = strategy.optimizer_state(optimizer)
            state["state"]["weight"]["step"] = torch.tensor(100.0)
            strategy.load_optimizer_state(optimizer, state)
        elif batch_idx == 2:
            state = strategy.optimizer_state(optimizer)
            assert state["state"]["weight"]["step"] == 101


def loaded_optimizer_state_reaches_the_device() -> None:
    trainer().fit(Hands(), data())


# --- 8: wrapping ----------------------------------------------------------------------------------------


class Fails(Normalized):
    """Fails when it is traced."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise KeyError("mine")


def a_module_is_wrapped_again() -> None:
    same(Normalized, data(BATCH * BATCHES - 2), devices=1, max_epochs=2)


def a_failed_trace_leaves_the_module_free() -> None:
    module = Fails()
    with suppress(KeyError):
        trainer().fit(module, data())
    assert all(type(each) is torch.Tensor for each in module.buffers())
    module.training_step = lambda batch, batch_idx: module.loss(batch)
    trainer().fit(module, data())
    assert not hardware.owners


class Lost(Callback):
    """Loses the device when training ends."""

    def __init__(self) -> None:
        self.left: list[Any] = []

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.trainer = trainer
        for method in ("destroy", "detachFromDevice", "copyWeightsToHostIfNeeded"):
            setattr(poptorch.PoplarExecutor, method, self.fail(method))

    def fail(self, method: str) -> Any:
        def failing(model: Any) -> Any:
            if method == "destroy":
                self.left.append(model)
            raise poptorch.Error(f"lost in {method}")

        return failing


def a_lost_device_leaves_the_module_free() -> None:
    kind, lost, module = poptorch.PoplarExecutor, Lost(), Normalized()
    methods = {
        name: vars(kind)[name]
        for name in ("destroy", "detachFromDevice", "copyWeightsToHostIfNeeded")
    }
    made = trainer(callbacks=lost, devices=1)
    parted: list[str] = []
    made.strategy.accelerator.teardown = lambda: parted.append("accelerator")
    try:
        with refused(IPUError, "PopTorch: lost"):
            made.fit(module, data(), data(BATCH * BATCHES + 2))
    finally:
        for name, method in methods.items():
            setattr(kind, name, method)
    assert len(lost.left) == 3
    assert parted == ["accelerator"]
    assert made.strategy._model is None
    assert {type(each) for each in module.parameters()} == {nn.Parameter}
    assert {type(each) for each in module.buffers()} == {torch.Tensor}


# --- 9: inference ---------------------------------------------------------------------------------------


def validation_beside_accumulation() -> None:
    made = trainer(accumulate_grad_batches=7)
    made.fit(Regression(), data(), data())
    assert "val_loss" in made.callback_metrics


# --- 10: optimizers -------------------------------------------------------------------------------------


def optimizers_that_are_not_there_are_refused() -> None:
    for make in (
        partial(torch.optim.Adagrad, lr=0.1),
        partial(torch.optim.RMSprop, lr=0.1),
        partial(AdamW, lr=0.1, amsgrad=True),
        partial(SGD, lr=0.1, maximize=True),
    ):
        with refused(UnsupportedError, "IPU"):
            trainer().fit(Trained(make), data())


def clipping_is_the_device_s() -> None:
    same(momentum, gradient_clip_val=0.1)


# --- 11 and 12: the machine -----------------------------------------------------------------------------


def a_number_that_is_no_power_of_two_is_refused() -> None:
    with machine(IPU_SIMULATOR_IPUS="8"):
        with refused(UnsupportedError, "devices=3", "power of 2", "devices=4"):
            trainer(devices=3).fit(Regression(), DataLoader(samples(24), 12))
        options = poptorch.Options().replicationFactor(3).autoRoundNumIPUs(True)
        strategy = IPUStrategy(training_opts=options)
        trainer(strategy, devices=3).fit(Regression(), DataLoader(samples(24), 12))


def ipus_that_are_not_there_are_refused() -> None:
    with refused(UnsupportedError, "devices=4", "POPTORCH_IPU_MODEL=1"):
        trainer(devices=4).fit(Regression(), data())


def the_emulator_is_had_on_request() -> None:
    with machine(IPU_SIMULATOR_IPUS="0", POPTORCH_IPU_MODEL="1"):
        assert not poptorch.ipuHardwareIsAvailable()
        same(momentum)


# --- 13: Python runs once -------------------------------------------------------------------------------


def what_a_step_logs_is_logged_for_every_batch() -> None:
    for options in ({}, {"accumulate_grad_batches": 2}):
        made, reference = trainer(**options), alone(**options)
        for each in (made, reference):
            each.fit(Logging(), data())
        mine, theirs = (
            {name: value.detach() for name, value in t.callback_metrics.items()}
            for t in (made, reference)
        )
        assert {"loss_step", "loss_epoch", "max_step", "min_step", "SUM_step"} <= set(mine)
        assert apart(mine, theirs) <= NEAR, (mine, theirs)


class Steps(Callback):
    """Keeps what was logged of each batch, by way of the module's own `log`."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        log = pl_module.log

        def keep(name: str, value: Any, *args: Any, **options: Any) -> None:
            if name == "loss":
                self.found.append(float(value.detach()))
            log(name, value, *args, **options)

        pl_module.log = keep


def batches_of_one_call_are_logged_in_order() -> None:
    mine, theirs = Steps(), Steps()
    strategy = IPUStrategy(device_iterations=3)
    options = {"accumulate_grad_batches": 2}
    trainer(strategy, callbacks=mine, **options).fit(Logging(), data(12 * BATCH))
    alone(callbacks=theirs, **options).fit(Logging(), data(12 * BATCH))
    assert len(mine.found) == len(theirs.found) == 12
    assert max(abs(a - b) for a, b in zip(mine.found, theirs.found, strict=True)) <= NEAR


class Indexed(Regression):
    """Does something else in every other batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch) * (1 if batch_idx % 2 else 2)


def a_batch_s_index_is_refused() -> None:
    with refused(UnsupportedError, "batch_idx", "runs once"):
        trainer().fit(Indexed(), data())


class Collects(Regression):
    """Logs an object that collects by itself."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("object", type("Metric", (), {"compute": None, "reset": None})())
        return self.loss(batch)


def an_object_that_collects_is_refused() -> None:
    with refused(UnsupportedError, "log('object'", "log the tensor itself"):
        trainer().fit(Collects(), data())


class Narrates(Regression):
    """Has a `log` and a `log_dict` of this one object, and fails in the steps that it is told."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails, self.heard = fails, 0
        self.log, self.log_dict = self.own_log, self.own_log_dict

    def own_log(self, name: str, value: Any, **options: Any) -> None:
        self.heard += 1

    def own_log_dict(self, dictionary: Any, **options: Any) -> None:
        raise AssertionError("each value comes back by itself")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss)
        self.log_dict({"number": 2.0})
        if self.fails:
            raise KeyError("mine")
        return loss


def a_log_of_the_user_s_own_stays() -> None:
    for fails, heard in ((False, 2 * BATCHES), (True, 0)):
        module = Narrates(fails)
        own = module.log, module.log_dict
        with suppress(KeyError):
            trainer().fit(module, data())
        assert (module.log, module.log_dict) == own
        assert module.heard == heard
    module = Regression()
    trainer().fit(module, data())
    assert not {"log", "log_dict"} & set(vars(module))


# --- random numbers -------------------------------------------------------------------------------------


def the_run_s_random_numbers_are_its_own() -> None:
    states = []
    for made in (trainer(), alone()):
        torch.manual_seed(5)
        made.fit(Regression(), data(BATCH * BATCHES - 2))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def pop_errors_are_told() -> None:
    with refused(IPUError, "PopTorch: Unsupported optimizer"):
        from torchrelay_ipu import vendor

        vendor.training_model(
            Regression(), poptorch.Options(), torch.optim.Adagrad(Regression().parameters())
        )


CHECKS = [
    value
    for name, value in list(globals().items())
    if callable(value)
    and getattr(value, "__module__", "") == __name__
    and not isinstance(value, type)
    and not name.startswith("_")
    and name
    not in (
        "resized",
        "trainer",
        "alone",
        "data",
        "fitted",
        "apart",
        "same",
        "refused",
        "machine",
        "adam",
        "momentum",
    )
]
