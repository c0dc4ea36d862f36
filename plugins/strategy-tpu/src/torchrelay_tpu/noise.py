"""Noise: the seeds by which XLA draws random numbers, one for each training step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from torchrelay.collectives.messages import to_bytearray

_STEP, _RANK = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9
"""By which seeds of successive steps, and of ranks, differ: odd constants of SplitMix64."""

_SEEDS = 2**63


@dataclass
class Noise:
    """Seeds that follow from where they began, how many there were, and the rank.

    `torch.manual_seed` does not reach XLA's generator, whose own state moves with every graph that runs, so that a
    resumed run could not meet it.

    Args:
        begin: from 0 to 2**63 - 1.
        steps: how many training steps have been seeded.
    """

    begin: int
    steps: int = 0

    def next(self, rank: int) -> int:
        """The seed of the next training step, from 0 to 2**63 - 1."""
        self.steps += 1
        return (self.begin + self.steps * _STEP + rank * _RANK) % _SEEDS


def beginning() -> int:
    """Where seeds begin: what the state of torch's generator says, from which nothing is drawn."""
    state = to_bytearray(torch.get_rng_state())
    return int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little") % _SEEDS
