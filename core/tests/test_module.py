from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from torchrelay import LightningModule
from torchrelay.errors import ConfigurationError
from torchrelay.module import ModuleHooks, is_overridden


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("name", ["training_step", "validation_step", "test_step"])
def test_steps_have_to_be_defined(name):
    with pytest.raises(NotImplementedError):
        getattr(Module(), name)(None, 0)


def test_optimizers_have_to_be_defined():
    with pytest.raises(NotImplementedError):
        Module().configure_optimizers()


def test_prediction_is_forward():
    module, x = Module(), torch.ones(3, 2)
    assert torch.equal(module.predict_step(x, 0), module(x))


def test_optimizer_step_steps_with_the_closure():
    class Optimizer:
        def step(self, closure):
            return closure()

    calls = []
    Module().optimizer_step(0, 0, Optimizer(), lambda: calls.append("closure"))
    assert calls == ["closure"]


def test_without_a_trainer():
    module = Module()
    assert (module.current_epoch, module.global_step, module.global_rank, module.local_rank) == (
        0,
        0,
        0,
        0,
    )
    assert module.logger is None
    with pytest.raises(
        ConfigurationError,
        match=r"Module is attached to no Trainer; self\.trainer is there during fit",
    ):
        module.trainer  # noqa: B018
    with pytest.warns(
        UserWarning, match=r"log\('loss'\) has no effect: no Trainer drives this module"
    ):
        module.log("loss", 1.0)


def test_print_prints_on_rank_zero_alone(capsys, monkeypatch):
    module = Module()
    module.print("one", "two", sep="-")
    monkeypatch.setattr(Module, "global_rank", 1)
    module.print("three")
    assert capsys.readouterr().out == "one-two\n"


def test_the_device_is_that_of_its_tensors():
    assert Module().device == torch.device("cpu")
    assert Module().to("meta").device == torch.device("meta")
    buffers = LightningModule()
    assert buffers.device == torch.device("cpu")
    buffers.register_buffer("scale", torch.ones(1, device="meta"))
    assert buffers.device == torch.device("meta")


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_a_copy_leaves_the_trainer_behind(copied):
    module = Module()
    module.trainer = lambda: "a lambda cannot be pickled"
    again = copied(module)
    assert again._trainer is None
    assert module.trainer() == "a lambda cannot be pickled"
    assert torch.equal(again.layer.weight, module.layer.weight)


def test_it_holds_no_parameter_or_module_of_its_own():
    module = LightningModule()
    assert dict(module.named_modules()) == {"": module}
    assert list(module.state_dict()) == []


def test_what_counts_as_overridden():
    class Child(Module):
        def on_train_start(self):
            pass

    class Grandchild(Child):
        pass

    on_instance = Module()
    on_instance.on_train_start = lambda: None
    for instance, expected in (
        (Module(), False),
        (Child(), True),
        (Grandchild(), True),
        (on_instance, True),
    ):
        assert is_overridden("on_train_start", instance, ModuleHooks) is expected
        assert not is_overridden("on_train_end", instance, ModuleHooks)
    assert not is_overridden("no_such_hook", Module(), ModuleHooks)


def test_all_gather_and_several_optimizers_go_through_the_trainer(boring, make_trainer):
    seen = []

    def training_step(self, batch, batch_idx):
        seen.append(
            (self.all_gather(torch.ones(2)).shape, len(self.optimizers()), self.lr_schedulers())
        )

    def configure_optimizers(self):
        return [torch.optim.SGD([p], lr=0.1) for p in list(self.parameters())[:2]]

    module = boring.regression(
        automatic_optimization=False,
        training_step=training_step,
        configure_optimizers=configure_optimizers,
    )
    make_trainer(limit_train_batches=1).fit(module, boring.loader())
    assert seen == [((1, 2), 2, None)]
