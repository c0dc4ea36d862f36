from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchrelay.errors import UnknownNameError
from torchrelay.precision import TruePrecision

FORMATS = {
    "16-true": torch.float16,
    "bf16-true": torch.bfloat16,
    "32-true": torch.float32,
    "64-true": torch.float64,
}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        # `torch.ones` has the format of the step, so that nothing is promoted.
        return (self.linear(batch["x"]) * torch.ones(2)).sum()


@pytest.mark.parametrize("name", FORMATS)
def test_one_format_from_module_to_gradient(name: str) -> None:
    precision, dtype = TruePrecision(name), FORMATS[name]
    module = precision.convert_module(Model())
    batch: dict[str, Any] = {"x": torch.ones(3, 4), "y": torch.tensor([1, 2])}
    if precision.converts_batches:
        batch = precision.convert_batch(batch)
    loss = precision.wrap_step(module.step)(batch)
    precision.backward(loss, torch.Tensor.backward)
    assert loss.dtype is dtype
    assert module.linear.weight.dtype is dtype
    assert module.linear.weight.grad.dtype is dtype
    assert module.scale.dtype is dtype
    assert module.count.dtype is torch.int64
    assert batch["y"].dtype is torch.int64
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("name", FORMATS)
def test_modules_are_created_in_the_format(name: str) -> None:
    with TruePrecision(name).init_context():
        assert nn.Linear(1, 1).weight.dtype is FORMATS[name]
    assert torch.get_default_dtype() is torch.float32


def test_default_format_comes_back_after_an_error() -> None:
    def fail() -> None:
        raise KeyError

    precision = TruePrecision("64-true")
    with pytest.raises(KeyError), precision.init_context():
        fail()
    with pytest.raises(KeyError):
        precision.wrap_step(fail)()
    assert torch.get_default_dtype() is torch.float32


def test_32_bits_cost_nothing() -> None:
    precision, module, batch = TruePrecision(), Model(), [torch.ones(1, dtype=torch.float64)]
    weight = module.linear.weight
    assert precision.converts_batches is False
    assert precision.wrap_step(module.step) == module.step
    assert precision.convert_module(module).linear.weight is weight
    assert precision.convert_batch(batch) is batch
    assert precision.state_dict() == {}


def test_step_updates_in_64_bits_as_float64_by_hand() -> None:
    precision = TruePrecision("64-true")
    weight = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def closure() -> torch.Tensor:
        loss = (weight * 3).sum()
        precision.backward(loss, torch.Tensor.backward)
        return loss

    assert precision.optimizer_step(optimizer, closure).item() == 3.0
    assert weight.item() == pytest.approx(0.7, abs=1e-15)


def test_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="'8-true'; choose one of 16-true"):
        TruePrecision("8-true")
