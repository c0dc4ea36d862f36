"""The raw loop with Accelerate; several processes come from torchrun."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.data_loader import prepare_data_loader
from accelerate.tracking import GeneralTracker
from torch import nn
from workload import (
    DDP_ARGUMENTS,
    LOG_EVERY,
    Book,
    Case,
    Clock,
    Losses,
    Network,
    make_loader,
    make_optimizer,
    make_validation_loader,
    make_watchers,
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
        gradient_accumulation_steps=case.accumulate,
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
    loader = prepared(accelerator, make_loader(case))
    validation_loader = prepared(accelerator, make_validation_loader(case))
    watchers, book, updates = make_watchers(case), Book(case), 0
    for _ in range(case.epochs):
        model.train()
        for x, y in loader:
            for watcher in watchers:
                watcher.begin()
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                if clock.logging:
                    book.note(loss, len(x))
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                updates += 1
                if updates % LOG_EVERY == 0 and book.latest:
                    accelerator.log({"loss": float(book.latest["loss"])}, step=updates)
            for watcher in watchers:
                watcher.end()
        if case.validates:
            accelerator.log({"loss": validate(model, validation_loader)}, step=updates)


def prepared(accelerator: Accelerator, loader: Any) -> Any:
    """The loader, of which every rank reads all, as with the other drivers."""
    if loader is None:
        return None
    return prepare_data_loader(
        loader, accelerator.device, num_processes=1, process_index=0, put_on_device=True
    )


def validate(model: nn.Module, loader: Iterable[Any]) -> float:
    """The mean loss of the validation data."""
    total, number = 0.0, 0
    model.eval()
    with torch.inference_mode():
        for x, y in loader:
            total += nn.functional.cross_entropy(model(x), y).item() * len(x)
            number += len(x)
    return total / number


if __name__ == "__main__":
    main()
