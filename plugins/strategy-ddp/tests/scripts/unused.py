"""Train a model with a parameter that takes no part, without telling DDP to look for it."""

from __future__ import annotations

from problems import Regression, data, quiet
from torch import nn
from torch.utils.data import DataLoader


class Unused(Regression):
    """One layer takes part in nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(8, 4)


if __name__ == "__main__":
    quiet(strategy="ddp", devices=2, max_steps=3).fit(Unused(), DataLoader(data(), batch_size=4))
