"""8 bits between the least and the greatest, as `MinMaxUInt8` of Bagua's kernels has them."""

from __future__ import annotations

import torch

LEVELS = 255.0
TINY = 1e-7


def compressed(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest (2,), and a level of 0 to 255 for each value."""
    ends = torch.stack([values.min(), values.max()]).float()
    scale, lowest = _scale(ends)
    return ends, (torch.round(values.float() * scale).clamp(max=lowest + LEVELS) - lowest).to(
        torch.uint8
    )


def restored(ends: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The values, each at most half a level from what it was."""
    scale, lowest = _scale(ends)
    return (levels.float() + lowest) / scale


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Values that went through 8 bits."""
    return restored(*compressed(values)).to(values.dtype)


def half_a_level(values: torch.Tensor) -> float:
    """How far a value may be from what it was."""
    return float(values.max() - values.min() + TINY) / LEVELS / 2


def _scale(ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = LEVELS / (ends[1] - ends[0] + TINY)
    return scale, torch.round(ends[1] * scale) - LEVELS


def average_in_8_bits(wire, flat: torch.Tensor, average: bool) -> None:
    """Each rank combines a part of what all send in 8 bits, and sends that in 8 bits.

    Args:
        flat: (n,), n a multiple of the ranks; combined in place.
    """
    parts = flat.view(wire.size, -1)
    mine = torch.stack([_packed(part) for part in parts])
    theirs = [each.view(wire.size, -1)[wire.rank] for each in wire.exchanged(mine.reshape(-1))]
    total = torch.stack([_unpacked(each) for each in theirs]).sum(0)
    done = wire.exchanged(_packed(total / wire.size if average else total))
    for part, each in zip(parts, done, strict=True):
        part.copy_(_unpacked(each))


def _packed(values: torch.Tensor) -> torch.Tensor:
    ends, levels = compressed(values)
    return torch.cat([ends.view(torch.uint8), levels])


def _unpacked(parcel: torch.Tensor) -> torch.Tensor:
    return restored(parcel[:8].clone().view(torch.float32), parcel[8:])
