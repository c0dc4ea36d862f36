from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from torchrelay.checkpoint import TorchCheckpointIO, from_names, to_names
from torchrelay.errors import CheckpointError

Make = Callable[[Iterable[Any]], Optimizer]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def names(module: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in module.named_parameters()}


def train(module: nn.Module, optimizer: Optimizer, steps: int = 3) -> None:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        module(torch.randn(5, 3, generator=generator)).square().mean().backward()
        optimizer.step()


def by_layer(module: nn.Sequential | nn.Module) -> list[dict[str, Any]]:
    first, last = module[0], module[2]
    return [
        {"params": list(first.parameters()), "lr": 0.1},
        {"params": list(last.parameters()), "lr": 0.01},
    ]


MAKERS: dict[str, Make] = {
    "sgd": lambda params: SGD(params, lr=0.1, momentum=0.9),
    "adamw": lambda params: AdamW(params, lr=0.1),
    "amsgrad": lambda params: Adam(params, lr=torch.tensor(0.1), amsgrad=True),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_goes_on_exactly_after_a_trip_through_a_file(kind: str, tmp_path: Path) -> None:
    make, source = MAKERS[kind], model()
    optimizer = make(source.parameters())
    train(source, optimizer)
    io, path = TorchCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"o": to_names(optimizer, names(source)), "m": source.state_dict()}, path)
    found = io.load_checkpoint(path)

    target = model()
    target.load_state_dict(found["m"])
    other = make(reversed(list(target.parameters())))  # another order
    other.load_state_dict(from_names(other, found["o"], names(target)))
    train(source, optimizer)
    train(target, other)
    for one, two in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_form_by_name() -> None:
    module = model()
    optimizer = Adam(by_layer(module))
    train(module, optimizer)
    form = to_names(optimizer, names(module))
    assert set(form) == {"state", "param_groups"}
    assert [group["params"] for group in form["param_groups"]] == [
        ["0.weight", "0.bias"],
        ["2.weight", "2.bias"],
    ]
    assert [group["lr"] for group in form["param_groups"]] == [0.1, 0.01]
    assert form["state"]["2.bias"]["exp_avg"].shape == (2,)


def test_a_given_state_is_named_instead_of_the_optimizers() -> None:
    module = model()
    optimizer = SGD(module.parameters(), lr=0.1)
    state = optimizer.state_dict() | {"state": {3: {"x": 1}}, "extra": 5}
    form = to_names(optimizer, names(module), state)
    assert form["state"] == {"2.bias": {"x": 1}}
    assert form["extra"] == 5


def test_reordered_groups_keep_their_own_options() -> None:
    module = model()
    optimizer = SGD(by_layer(module), momentum=0.9)
    train(module, optimizer)
    form = to_names(optimizer, names(module))
    other = SGD(by_layer(module)[::-1], lr=7.0)
    other.load_state_dict(from_names(other, form, names(module)))
    assert [group["lr"] for group in other.param_groups] == [0.01, 0.1]
    for parameter in module.parameters():
        assert torch.equal(
            other.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"]
        )


def test_groups_may_be_split_and_merged_where_options_agree() -> None:
    module = model()
    whole = SGD(module.parameters(), lr=0.3)
    split = SGD(by_layer(module))
    split.load_state_dict(from_names(split, to_names(whole, names(module)), names(module)))
    assert [group["lr"] for group in split.param_groups] == [0.3, 0.3]
    whole.load_state_dict(from_names(whole, to_names(split, names(module)), names(module)))
    with pytest.raises(CheckpointError, match=r"groups 0.weight with 2.weight, .* another lr;"):
        from_names(whole, to_names(SGD(by_layer(module)), names(module)), names(module))


def test_missing_and_unexpected_parameters_are_named() -> None:
    module = model()
    form = to_names(SGD(module.parameters(), lr=0.1), names(module))
    renamed = {parameter: name.replace("2.", "head.") for parameter, name in names(module).items()}
    with pytest.raises(CheckpointError) as caught:
        from_names(SGD(module.parameters(), lr=0.1), form, renamed)
    assert "missing head.weight, head.bias; unexpected 2.bias, 2.weight;" in str(caught.value)


def test_integer_keys_are_accepted_where_sizes_agree() -> None:
    module = model()
    optimizer = AdamW(module.parameters(), lr=0.1)
    train(module, optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    other = AdamW(module.parameters())
    other.load_state_dict(from_names(other, state, names(module)))
    assert other.param_groups[0]["lr"] == 0.1
    assert torch.equal(other.state[module[0].weight]["exp_avg"], state["state"][0]["exp_avg"])
    with pytest.raises(
        CheckpointError, match=r"groups of \[4\] parameters, the optimizer of \[2, 2\]"
    ):
        from_names(AdamW(by_layer(module)), state, names(module))


def test_parameters_of_nobody_are_named_by_their_place() -> None:
    module, extra = model(), nn.Parameter(torch.ones(1))
    optimizer = SGD([*module.parameters(), extra], lr=0.1)
    form = to_names(optimizer, names(module))
    assert form["param_groups"][0]["params"][-1] == "unnamed.4"
    assert from_names(optimizer, form, names(module))["param_groups"][0]["params"] == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_an_optimizer_that_knows_torchs_own_names() -> None:
    module = model()
    optimizer = SGD(module.named_parameters(), lr=0.1, momentum=0.9)
    train(module, optimizer)
    form = to_names(optimizer, names(module))
    assert "param_names" not in form["param_groups"][0]
    optimizer.load_state_dict(from_names(optimizer, form, names(module)))
    assert optimizer.param_groups[0]["param_names"] == list(names(module).values())
