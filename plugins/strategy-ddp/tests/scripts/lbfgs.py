"""Ask for an optimizer that DDP cannot drive."""

from __future__ import annotations

import os
from typing import Any

import torch
from problems import Regression, data, leave, quiet
from torch.utils.data import DataLoader

from torchrelay.errors import UnsupportedError


class Closures(Regression):
    """Optimized by LBFGS."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


if __name__ == "__main__":
    try:
        quiet(strategy="ddp", devices=2, max_steps=1).fit(
            Closures(), DataLoader(data(), batch_size=4)
        )
    except UnsupportedError as error:
        leave("lbfgs", int(os.environ.get("RANK", "0")), str(error))
        raise
