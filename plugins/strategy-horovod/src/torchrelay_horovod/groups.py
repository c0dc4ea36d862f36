"""Which gradients travel together: each message costs the main thread about as much, however small it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

SIZE = 1 << 20
"""Bytes from which on a group is full: enough that a message is worth its cost, little beside what backward still
computes."""


class Group:
    """Parameters whose gradients are sent as one, when the last of them is there.

    Args:
        name: the same on all ranks.
        members: of one type, on one device.
    """

    def __init__(self, name: str, members: tuple[nn.Parameter, ...]) -> None:
        self.name = name
        self.members = members
        self.missing: set[torch.Tensor] = set(members)
        self.sent: Sent | None = None

    def reset(self) -> None:
        """Wait for all gradients anew."""
        self.missing = set(self.members)
        self.sent = None


class Sent(NamedTuple):
    """What is under way: Horovod's handle, what backward has computed, and the contexts of the compression."""

    handle: int
    gradients: list[torch.Tensor]
    contexts: list[object]


def divide(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, ...]]:
    """Parts of parameters, in the order in which backward is likely to come to them: the last one first."""
    parts: list[list[nn.Parameter]] = []
    room, kind = 0, None
    for parameter in reversed(list(parameters)):
        kind_here = (parameter.dtype, parameter.device)
        if room <= 0 or kind_here != kind:
            parts.append([])
            room, kind = SIZE, kind_here
        parts[-1].append(parameter)
        room -= parameter.numel() * parameter.element_size()
    return [tuple(part) for part in parts]
