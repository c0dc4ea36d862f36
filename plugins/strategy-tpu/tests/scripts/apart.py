"""Replicas that begin apart, with what arithmetic could damage: each leaves what it trains from.

python apart.py
"""

from __future__ import annotations

import torch
from problems import Regression, leave, loader, quiet, state_of


class Apart(Regression):
    """Begins with its rank in each weight, with a mask of minus infinity, and with booleans."""

    def setup(self, stage: str) -> None:
        for parameter in self.parameters():
            torch.nn.init.constant_(parameter, 0.5 + self.global_rank)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("flags", torch.tensor([True, False]) ^ bool(self.global_rank))

    def on_train_start(self) -> None:
        leave("apart", state_of(self), self.global_rank)


if __name__ == "__main__":
    quiet(strategy="tpu_spawn", accelerator="tpu", devices=2).fit(Apart(), loader(batch=4))
