"""torchrelay's Trainer, with everything off that the raw loop has not."""

from __future__ import annotations

from collections.abc import Mapping

from workload import (
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

from torchrelay import LightningModule, Trainer
from torchrelay.callbacks import Callback


class LossLogger:
    """Passes on the loss of an update."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        loss = latest_loss(metrics)
        if loss is not None:
            self._losses.write(step, loss)
        if "val_loss" in metrics:
            self._losses.write(step, metrics["val_loss"])


def main() -> None:
    case = Case.from_command_line()
    clock, losses = Clock(case), Losses()
    trainer = Trainer(
        accelerator=case.accelerator,
        devices=case.processes,
        strategy=case.strategy or ("ddp" if case.processes > 1 else "single_device"),
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
