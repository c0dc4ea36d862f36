"""The raw loop with Accelerate; several processes come from torchrun."""

from __future__ import annotations

import gc
from typing import Any

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.data_loader import prepare_data_loader
from accelerate.tracking import GeneralTracker
from torch import nn
from workload import (
    DDP_ARGUMENTS,
    LOG_EVERY,
    Case,
    Clock,
    Losses,
    Network,
    make_loader,
    make_optimizer,
    report,
)


class LossTracker(GeneralTracker):
    """Passes on the loss of an update."""

    name = "losses"
    requires_logging_directory = False

    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self._losses = losses

    @property
    def tracker(self) -> Losses:
        return self._losses

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None, **kwargs: Any) -> None:
        if step is not None:
            self._losses.write(step, values["loss"])


def main() -> None:
    case = Case.from_command_line()
    clock, losses = Clock(case), Losses()
    accelerator = Accelerator(
        cpu=True,
        log_with=LossTracker(losses),
        kwargs_handlers=[DistributedDataParallelKwargs(**DDP_ARGUMENTS)],
    )
    accelerator.init_trackers("benchmark")
    train(case, accelerator, clock)
    if accelerator.is_main_process:
        report(case, clock, losses)
    gc.collect()  # see raw.py
    accelerator.end_training()


def train(case: Case, accelerator: Accelerator, clock: Clock) -> None:
    network = Network(case.width, clock)
    model, optimizer = accelerator.prepare(network, make_optimizer(network.parameters()))
    # Every rank reads all of the data, as with the other drivers.
    loader = prepare_data_loader(
        make_loader(case), accelerator.device, num_processes=1, process_index=0, put_on_device=True
    )
    metrics = {}
    model.train()
    for step, (x, y) in enumerate(loader, start=1):
        loss = nn.functional.cross_entropy(model(x), y)
        if clock.logging:
            metrics["loss"] = loss.detach()
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        if metrics and step % LOG_EVERY == 0:
            accelerator.log({"loss": metrics["loss"].item()}, step=step)


if __name__ == "__main__":
    main()
