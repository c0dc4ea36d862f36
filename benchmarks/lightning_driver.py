"""Lightning's Trainer, with everything off that the raw loop has not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from workload import (
    DDP_ARGUMENTS,
    LOG_EVERY,
    Case,
    Clock,
    Losses,
    latest_loss,
    make_callbacks,
    make_loader,
    make_module,
    make_validation_loader,
    report,
)


class LossLogger(Logger):
    """Passes on the loss of an update."""

    name = "losses"
    version = 0

    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self._losses = losses

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        loss = latest_loss(metrics)
        if step is not None and loss is not None:
            # Lightning counts the update whose metrics it logs from zero.
            self._losses.write(step + 1, loss)
        if step is not None and "val_loss" in metrics:
            self._losses.write(step + 1, metrics["val_loss"])

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
        max_epochs=case.epochs,
        accumulate_grad_batches=case.accumulate,
        callbacks=make_callbacks(Callback, case),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = make_module(LightningModule, case, clock)
    trainer.fit(module, make_loader(case), make_validation_loader(case))
    if trainer.is_global_zero:
        report(case, clock, losses)


if __name__ == "__main__":
    main()
