"""Fit, test, and fit again with another Trainer, in one program."""

from __future__ import annotations

import os
import sys

import torch
from problems import Regression, data, leave, quiet
from torch.utils.data import DataLoader

from torchrelay.environments.program import Program


def main() -> None:
    torch.manual_seed(3)
    module = Regression()
    loader = DataLoader(data(), batch_size=4)
    trainer = quiet(strategy="ddp", devices=2, max_epochs=1)
    trainer.fit(module, loader)
    trainer.save_checkpoint(os.path.join(os.environ["OUT"], "after.ckpt"))
    tested = trainer.test(module, loader, verbose=False)[0]["test_loss"]
    second = quiet(strategy="ddp", devices=2, max_epochs=2)
    second.fit(module, loader)
    again = second.test(module, loader, verbose=False)[0]["test_loss"]
    if second.is_global_zero:
        print("printed by one")
    program = Program.current()
    result = {
        "argv": sys.argv[1:],
        "interpreter": [*program.options, *program.target],
        "pid": os.getpid(),
        "rank": second.global_rank,
        "world": second.world_size,
        "port": second.strategy.cluster_environment.main_port,
        "tested": tested,
        "again": again,
    }
    leave("stages", second.global_rank, result)


if __name__ == "__main__":
    main()
