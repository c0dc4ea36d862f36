from __future__ import annotations

import pytest
import torch
from torch import nn

from torchrelay.checkpoint import load_model_state
from torchrelay.errors import CheckpointError


def model(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def test_the_same_model_loads() -> None:
    source, target = model(), model()
    load_model_state(target, source.state_dict())
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_missing_and_unexpected_names_are_told_in_one_line() -> None:
    state = model().state_dict()
    state["head.weight"] = state.pop("2.weight")
    with pytest.raises(CheckpointError) as caught:
        load_model_state(model(), state)
    message = str(caught.value)
    assert "missing 2.weight; unexpected head.weight" in message
    assert "strict=False" in message
    assert "\n" not in message


def test_only_the_first_few_names_are_told() -> None:
    with pytest.raises(CheckpointError, match=r"missing 0.weight, 0.bias, 1.weight and 6 more;"):
        load_model_state(model(), {})


def test_another_shape_is_told_even_when_not_strict() -> None:
    state = model(4).state_dict()
    with pytest.raises(CheckpointError, match=r"of another shape 0.weight \(4, 2\) for \(3, 2\)"):
        load_model_state(model(), state, strict=False)


def test_not_strict_takes_what_fits() -> None:
    source, target = model(), model()
    load_model_state(target, {"0.weight": source.state_dict()["0.weight"], "x": 1}, strict=False)
    assert torch.equal(target.state_dict()["0.weight"], source.state_dict()["0.weight"])


def test_a_modules_own_hook_is_quoted() -> None:
    module = model()

    def refuse(*arguments: object) -> None:
        raise RuntimeError("quantized weights\nneed another loader")

    module.register_load_state_dict_pre_hook(refuse)
    with pytest.raises(CheckpointError, match="quantized weights need another loader"):
        load_model_state(module, module.state_dict())
