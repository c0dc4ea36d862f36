from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch

from torchrelay.trainer.batch_size import batch_size_of

Pair = namedtuple("Pair", "x y")


@dataclass
class Sample:
    label: str
    image: torch.Tensor


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 2), 3),
        (torch.zeros(()), 1),
        (torch.zeros(0, 2), 0),
        ((torch.zeros(3), torch.zeros(5)), 3),
        ((None, 7, torch.zeros(3)), 3),
        ({"name": "x", "image": torch.zeros(3)}, 3),
        (UserDict(image=torch.zeros(3)), 3),
        (["text", [[], {"x": torch.zeros(3)}]], 3),
        (Pair(torch.zeros(3), None), 3),
        (Sample("a", torch.zeros(3)), 3),
        (Sample, 1),
        ("text", 1),
        (None, 1),
        ([], 1),
        (object(), 1),
    ],
)
def test_the_first_tensor_decides(batch, size):
    assert batch_size_of(batch) == size
