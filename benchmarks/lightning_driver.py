"""Lightning's Trainer, with everything off that the raw loop has not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from workload import DDP_ARGUMENTS, LOG_EVERY, Case, Clock, Losses, make_loader, make_module, report


class LossLogger(Logger):
    """Passes on the loss of an update."""

    name = "losses"
    version = 0

    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self._losses = losses

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # Lightning counts the update whose metrics it logs from zero.
        if "loss" in metrics and step is not None:
            self._losses.write(step + 1, metrics["loss"])

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def main() -> None:
    case = Case.from_command_line()
    clock, losses = Clock(case), Losses()
    ddp = DDPStrategy(process_group_backend="gloo", **DDP_ARGUMENTS)
    trainer = Trainer(
        accelerator="cpu",
        devices=case.processes,
        strategy=ddp if case.processes > 1 else SingleDeviceStrategy("cpu"),
        logger=LossLogger(losses),
        log_every_n_steps=LOG_EVERY,
        max_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(make_module(LightningModule, case, clock), make_loader(case))
    if trainer.is_global_zero:
        report(case, clock, losses)


if __name__ == "__main__":
    main()
