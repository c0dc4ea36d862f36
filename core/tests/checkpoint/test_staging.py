from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from torchrelay.checkpoint.staging import Staging


class Special(torch.Tensor):
    """A tensor class of the user's own."""


def addresses(value: dict[str, Any]) -> set[int]:
    return {
        each.untyped_storage().data_ptr()
        for each in value.values()
        if isinstance(each, torch.Tensor)
    }


def test_nothing_is_shared_with_the_original() -> None:
    original: dict[str, Any] = {
        "weight": torch.arange(12.0).view(3, 4),
        "turned": torch.arange(6).view(2, 3).T,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "complex": torch.tensor([1 + 2j]),
        "negated": torch.tensor([1 + 2j]).conj(),
        "flag": torch.tensor(True),
        "none": torch.empty(0),
        "sparse": torch.eye(3).to_sparse(),
        "special": torch.ones(2).as_subclass(Special),
        "list": [1, {"deep": torch.zeros(2)}],
    }
    copied = Staging().copy(original)
    for name, tensor in original.items():
        if isinstance(tensor, torch.Tensor):
            assert copied[name].dtype is tensor.dtype
            assert type(copied[name]) is type(tensor)
            assert (
                copied[name].stride() == tensor.stride() if tensor.layout is torch.strided else True
            )
            wanted = tensor.clone().resolve_conj()
            if tensor.layout is torch.strided and tensor.numel():
                tensor.zero_()
            assert torch.equal(copied[name].to_dense().resolve_conj(), wanted.to_dense())
    original["list"][1]["deep"].fill_(7)
    original["list"].append(2)
    assert len(copied["list"]) == 2
    assert copied["list"][1]["deep"].tolist() == [0, 0]


def test_what_is_shared_stays_shared() -> None:
    weight = torch.arange(8.0)
    shared = [1]
    copied = Staging().copy(
        {"a": weight, "tied": weight, "view": weight[4:], "one": shared, "other": shared}
    )
    assert copied["a"] is copied["tied"]
    assert copied["one"] is copied["other"]
    copied["a"].zero_()
    assert copied["view"].tolist() == [0, 0, 0, 0]
    assert weight.sum() == 28


def test_only_what_a_file_would_hold_is_copied() -> None:
    module = nn.Linear(2, 2)
    state = module.state_dict()
    copied = Staging().copy(
        {"state_dict": state, "loss": module, "meta": torch.empty(3, device="meta")}
    )
    assert isinstance(copied["state_dict"], OrderedDict)
    assert copied["state_dict"]._metadata == state._metadata
    assert isinstance(copied["loss"].weight, nn.Parameter)
    assert copied["loss"].weight.data_ptr() == copied["state_dict"]["weight"].data_ptr()
    assert copied["meta"].device.type == "meta"


def test_lent_memory_of_two_lengths() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(4.0)
    copied = Staging().copy({"whole": torch.from_numpy(array), "part": torch.from_numpy(array[:2])})
    assert copied["whole"].tolist() == [0, 1, 2, 3]
    assert copied["part"].tolist() == [0, 1]


def test_a_bare_storage() -> None:
    storage = torch.ones(4, dtype=torch.uint8).untyped_storage()
    copied = Staging().copy({"bytes": storage})["bytes"]
    storage.fill_(0)
    assert list(copied) == [1, 1, 1, 1]


def test_memory_is_used_again() -> None:
    staging, state = Staging(), {"a": torch.zeros(50_000), "b": torch.zeros(3)}
    first = addresses(staging.copy(state))
    state["a"].fill_(1)
    second = staging.copy(state)
    assert addresses(second) == first
    assert second["a"].sum() == 50_000
    assert addresses(staging.copy({"a": torch.zeros(10)})).isdisjoint(first), "kept far too much"
    larger = staging.copy({"a": torch.ones(100_000)})
    assert larger["a"].sum() == 100_000


def test_an_attribute_of_a_tensor_travels() -> None:
    tagged = torch.ones(2)
    tagged.tag = "mine"
    assert Staging().copy({"a": tagged})["a"].tag == "mine"


def test_a_tensor_that_requires_grad() -> None:
    leaf = torch.ones(2, requires_grad=True)
    copied = Staging().copy({"leaf": leaf, "result": leaf * 2})
    assert copied["leaf"].requires_grad
    assert copied["result"].tolist() == [2, 2]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_from_cuda_through_pinned_memory() -> None:
    weight = torch.arange(1_000_000.0, device="cuda")
    staging = Staging()
    copied = staging.copy({"weight": weight, "tied": weight[10:], "step": torch.tensor(3.0)})
    weight.zero_()
    assert copied["weight"].device.type == "cpu"
    assert torch.equal(copied["weight"], torch.arange(1_000_000.0))
    assert copied["tied"].data_ptr() == copied["weight"].data_ptr() + 40
    assert copied["step"] == 3
    assert copied["weight"].is_pinned()
