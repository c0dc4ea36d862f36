"""Messages of bytes of any length, by collectives whose buffers have the same size on every rank.

The first buffer says how long the message is and holds its beginning. Most messages fit in it; what is left of a longer
one goes in a second.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

FIRST = 1024
"""Bytes of the first buffer."""

_LENGTH = 8
_ROOM = FIRST - _LENGTH

Broadcast = Callable[[torch.Tensor], None]
"""Sends a buffer of bytes, or fills it with what is received, on the CPU."""

Gather = Callable[[torch.Tensor], torch.Tensor]
"""For a buffer (n,) of bytes on the CPU, those of all ranks (world_size, n), on any device."""


def send(message: torch.Tensor, broadcast: Broadcast) -> None:
    """Send bytes (n,) on the CPU to the ranks that `receive`. Collective."""
    broadcast(_first(message))
    if message.numel() > _ROOM:
        broadcast(message[_ROOM:])


def receive(broadcast: Broadcast) -> bytearray:
    """What another rank sends by `send`. Collective."""
    first = bytearray(FIRST)
    broadcast(as_bytes(first))
    message = _begun(first)
    if len(message) > _ROOM:
        broadcast(as_bytes(message)[_ROOM:])
    return message


def gather(message: torch.Tensor, all_gather: Gather) -> list[bytearray]:
    """The messages of all ranks, in rank order. Collective.

    Args:
        message: bytes (n,) on the CPU, of which each rank has as many as it likes.
        all_gather: collects buffers of one size.
    """
    messages = [_begun(to_bytearray(row)) for row in all_gather(_first(message))]
    longest = max(map(len, messages)) - _ROOM
    if longest > 0:
        rows = all_gather(_padded(message[_ROOM:], longest))
        for each, row in zip(messages, rows, strict=True):
            if len(each) > _ROOM:
                as_bytes(each)[_ROOM:] = row[: len(each) - _ROOM]
    return messages


def as_bytes(memory: bytearray | memoryview) -> torch.Tensor:
    """A tensor (n,) of bytes that shares its memory with a buffer, which is not empty."""
    return torch.frombuffer(memory, dtype=torch.uint8)


def to_bytearray(row: torch.Tensor) -> bytearray:
    """A copy of bytes (n,), n > 0, from any device. Needs no numpy."""
    memory = bytearray(row.numel())
    as_bytes(memory).copy_(row)
    return memory


def _first(message: torch.Tensor) -> torch.Tensor:
    length = as_bytes(bytearray(message.numel().to_bytes(_LENGTH, "little")))
    return _padded(torch.cat([length, message[:_ROOM]]), FIRST)


def _begun(first: bytearray) -> bytearray:
    """A message of which the beginning is there."""
    message = bytearray(int.from_bytes(first[:_LENGTH], "little"))
    message[:_ROOM] = first[_LENGTH : _LENGTH + len(message)]
    return message


def _padded(content: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.pad(content, (0, size - content.numel()))
