"""Go on from a commit of two ranks in one process, as a survivor does.

python goes_on.py COMMIT
"""

from __future__ import annotations

import sys

import torch
from problems import OUT, Regression, leave, loader, quiet, state_of


def main(commit: str) -> None:
    checkpoint = torch.load(OUT / commit, weights_only=True)
    # Two ranks have taken twice as many batches of the same epoch.
    fit = checkpoint["loops"]["fit"]
    checkpoint["loops"]["fit"] = {**fit, "batch": fit["batch"] * 2, "of": None}
    torch.save(checkpoint, OUT / "alone.ckpt")
    module = Regression("adamw")
    trainer = quiet(strategy="single_device", devices=1, max_epochs=3, precision="64-true")
    trainer.fit(module, loader(4), ckpt_path=OUT / "alone.ckpt")
    leave("alone", 0, {"state": state_of(module), "steps": trainer.global_step})


if __name__ == "__main__":
    main(sys.argv[1])
