from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from torchrelay.errors import ConfigurationError, UnknownNameError, UnsupportedError
from torchrelay.precision import MixedPrecision
from torchrelay.precision.mixed import drives_its_closure

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
        ],
    ),
]


def run(loss: torch.Tensor) -> None:
    loss.backward()


def scaled(name: str = "16-mixed", **options: Any) -> MixedPrecision:
    return MixedPrecision(name, scaler=torch.amp.GradScaler("cpu", **options))


def parameter(value: float = 1.0) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    weight = nn.Parameter(torch.tensor([value]))
    return weight, torch.optim.SGD([weight], lr=0.1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "dtype"), [("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16)]
)
def test_learns_with_32_bit_parameters_and_16_bit_arithmetic(
    name: str, dtype: torch.dtype, device: str
) -> None:
    torch.manual_seed(0)
    precision = MixedPrecision(name)
    precision.setup(torch.device(device))
    with precision.init_context():
        model = precision.convert_module(nn.Linear(4, 1)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    x = torch.randn(64, 4, device=device)
    y = x.sum(1, keepdim=True)
    seen = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        out = model(x)
        seen.append(out.dtype)
        return nn.functional.mse_loss(out.float(), y)

    step = precision.wrap_step(forward)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = step(x)
        precision.backward(loss, run)
        precision.unscale(optimizer)
        return loss

    losses = [precision.optimizer_step(optimizer, closure).item() for _ in range(60)]
    assert set(seen) == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses[-1] < losses[0] / 10


def test_gradients_are_scaled_then_true() -> None:
    precision = scaled(init_scale=1024.0)
    weight, optimizer = parameter()
    precision.backward(weight * 3, run)
    precision.backward(weight * 2, run)
    assert weight.grad == 5 * 1024
    precision.unscale(optimizer)
    precision.unscale(optimizer)
    assert weight.grad == 5
    assert precision.optimizer_step(optimizer, lambda: "closure's result") == "closure's result"
    assert weight.item() == pytest.approx(0.5)


def test_step_unscales_when_nobody_did() -> None:
    precision = scaled(init_scale=1024.0)
    weight, optimizer = parameter()
    precision.optimizer_step(optimizer, lambda: precision.backward(weight * 2, run))
    assert weight.item() == pytest.approx(0.8)


def test_overflow_skips_the_update_and_shrinks_the_scale() -> None:
    precision = scaled(init_scale=1024.0)
    weight, optimizer = parameter()
    precision.optimizer_step(optimizer, lambda: precision.backward(weight * float("inf"), run))
    assert weight.item() == 1.0
    optimizer.zero_grad()
    precision.optimizer_step(optimizer, lambda: precision.backward(weight * 2, run))
    assert weight.item() == pytest.approx(0.8)
    assert precision.state_dict()["scale"] == 512.0


def test_two_optimizers_step_in_one_window_with_the_same_scale() -> None:
    precision = scaled(init_scale=1024.0, growth_interval=1)
    (one, first), (two, second) = parameter(), parameter()
    precision.backward(one * 1, run)
    precision.backward(two * 2, run)
    precision.optimizer_step(first, lambda: None)
    precision.optimizer_step(second, lambda: None)
    assert (one.item(), two.item()) == (pytest.approx(0.9), pytest.approx(0.8))
    assert precision.state_dict()["scale"] == 2048.0


def test_a_window_without_its_update_leaves_no_trace() -> None:
    precision = scaled(init_scale=1024.0)
    weight, optimizer = parameter()
    precision.backward(weight * 5, run)
    precision.unscale(optimizer)  # and then the user's optimizer_step skips
    optimizer.zero_grad()
    precision.backward(weight * 2, run)
    precision.unscale(optimizer)
    assert weight.grad == 2
    precision.optimizer_step(optimizer, lambda: None)
    assert weight.item() == pytest.approx(0.8)


def test_a_closure_that_skips_leaves_nothing_to_update() -> None:
    precision = scaled()
    weight, optimizer = parameter()
    assert precision.optimizer_step(optimizer, lambda: None) is None
    precision.optimizer_step(optimizer, lambda: precision.backward(weight * 2, run))
    for set_to_none in (False, True):
        optimizer.zero_grad(set_to_none)
        assert precision.optimizer_step(optimizer, lambda: None) is None
    assert weight.item() == pytest.approx(0.8)


def test_scale_travels_in_the_state() -> None:
    precision = scaled(init_scale=1024.0, growth_interval=1)
    weight, optimizer = parameter()
    precision.optimizer_step(optimizer, lambda: precision.backward(weight * 2, run))
    state = copy.deepcopy(precision.state_dict())
    assert state["scale"] == 2048.0
    again = MixedPrecision("16-mixed")
    again.load_state_dict({})
    assert again.state_dict()["scale"] == 2.0**16
    again.load_state_dict(state)
    again.backward(weight * 2, run)
    assert again.state_dict()["scale"] == 2048.0
    brain = MixedPrecision("bf16-mixed")
    brain.load_state_dict(state)
    assert brain.state_dict() == {}


def test_lbfgs_is_refused_with_a_scale_and_runs_without() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.LBFGS([weight])
    with pytest.raises(UnsupportedError, match="LBFGS evaluates its closure several times"):
        scaled().optimizer_step(optimizer, lambda: None)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight - 3).square().sum()
        loss.backward()
        return loss

    MixedPrecision("bf16-mixed").optimizer_step(optimizer, closure)
    assert weight.item() == pytest.approx(3.0, abs=1e-3)


def test_what_drives_its_closure() -> None:
    assert drives_its_closure(torch.optim.LBFGS.step)
    assert not drives_its_closure(torch.optim.AdamW.step)


def test_it_travels_to_spawned_processes() -> None:
    again = pickle.loads(pickle.dumps(MixedPrecision("16-mixed")))
    assert again.scaler.get_scale() == 2.0**16


def test_wrong_arguments() -> None:
    with pytest.raises(UnknownNameError, match="'16-true'; choose one of 16-mixed, bf16-mixed"):
        MixedPrecision("16-true")
    with pytest.raises(ConfigurationError, match="bf16-mixed scales no gradients"):
        scaled("bf16-mixed")
