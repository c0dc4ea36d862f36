from __future__ import annotations

import inspect

import pytest
import torch

from torchrelay.errors import ConfigurationError
from torchrelay.strategies import StepDispatcher
from torchrelay.strategies.steps import USUAL, Shape, shape_of, step_of


class Steps(torch.nn.Module):
    def training_step(self, batch):
        return batch

    def validation_step(self, batch, dataloader_idx):
        return batch, dataloader_idx

    def test_step(self, batch, *, batch_idx, scale=2):
        return batch, batch_idx, scale

    def predict_step(self, batch, batch_idx, dataloader_idx):
        return batch, batch_idx, dataloader_idx

    def another(self, a, b, c):
        return a, b, c


EXPECTED = {
    "training_step": "x",
    "validation_step": ("x", 0),
    "test_step": ("x", 3, 2),
    "predict_step": ("x", 3, 0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_step_gets_the_arguments_that_it_takes(name):
    module = Steps()
    assert step_of(module, name)("x", 3) == EXPECTED[name]
    assert StepDispatcher(module)(name, "x", 3) == EXPECTED[name]


def test_a_dispatcher_runs_any_other_method_as_it_is():
    assert StepDispatcher(Steps())("another", 1, 2, 3) == (1, 2, 3)


@pytest.mark.parametrize(
    "step",
    [
        lambda batch, batch_idx: (batch, batch_idx),
        lambda batch, i, dataloader_idx=0: (batch, i),
        lambda batch, batch_idx, scale=1, *, name="": (batch, batch_idx),
        lambda *args: args,
        lambda batch, *args, **kwargs: (batch, *args),
    ],
    ids=lambda step: str(inspect.signature(step)),
)
def test_a_step_of_the_usual_shape_costs_nothing(step):
    module = torch.nn.Module()
    module.training_step = step
    assert step_of(module, "training_step") is step
    assert step("x", 3) == ("x", 3)


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        (lambda batch, **kwargs: 0, Shape(1)),
        (lambda batch, scale=1.0: 0, Shape(1)),
        (lambda batch, dataloader_idx=0: 0, Shape(1)),
        (lambda batch, *, batch_idx: 0, Shape(1, ("batch_idx",))),
        (lambda batch, dataloader_idx, batch_idx: 0, Shape(1, ("batch_idx", "dataloader_idx"))),
        (dict, USUAL),
    ],
)
def test_other_shapes(step, shape):
    module = torch.nn.Module()
    module.training_step = step
    assert shape_of(module, "training_step") == shape


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            lambda: 0,
            r"Module\.training_step takes no batch; define training_step\(self, batch, batch_idx\)",
        ),
        (
            lambda batch, batch_idx, optimizer_idx: 0,
            "has the parameter 'optimizer_idx', which nobody fills",
        ),
        (
            lambda batch, *, weight: 0,
            "has the parameter 'weight', which nobody fills; give it a default",
        ),
    ],
)
def test_what_nobody_fills_is_named(step, message):
    module = torch.nn.Module()
    module.training_step = step
    with pytest.raises(ConfigurationError, match=message):
        shape_of(module, "training_step")
