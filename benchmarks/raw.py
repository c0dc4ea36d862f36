"""The loop that one would write in plain PyTorch; several processes come from torchrun."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
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


def main() -> None:
    case = Case.from_command_line()
    clock, losses = Clock(case), Losses()
    if case.processes > 1:
        dist.init_process_group("gloo")
    train(case, clock, losses)
    if case.processes == 1 or dist.get_rank() == 0:
        report(case, clock, losses)
    if case.processes > 1:
        # DistributedDataParallel is part of a cycle; alive at the end, it keeps threads that abort the process.
        gc.collect()
        dist.destroy_process_group()


def train(case: Case, clock: Clock, losses: Losses) -> None:
    model: nn.Module = Network(case.width, clock)
    if case.processes > 1:
        model = DistributedDataParallel(model, **DDP_ARGUMENTS)
    accumulating = model.no_sync if isinstance(model, DistributedDataParallel) else nullcontext
    optimizer = make_optimizer(model.parameters())
    loader, validation_loader = make_loader(case), make_validation_loader(case)
    watchers, book, updates = make_watchers(case), Book(case), 0

    def gradients(x: torch.Tensor, y: torch.Tensor, *, first: bool) -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        if clock.logging:
            book.note(loss, len(x))
        if first:
            optimizer.zero_grad()
        if case.accumulate > 1:
            loss = loss / case.accumulate
        loss.backward()

    for _ in range(case.epochs):
        model.train()
        for batch, (x, y) in enumerate(loader):
            for watcher in watchers:
                watcher.begin()
            place, complete = batch % case.accumulate, (batch + 1) % case.accumulate == 0
            if complete or batch + 1 == case.batches:
                gradients(x, y, first=place == 0)
                optimizer.step()
                updates += 1
                if updates % LOG_EVERY == 0 and book.latest:
                    losses.write(updates, float(book.latest["loss"]))
            else:
                with accumulating():
                    gradients(x, y, first=place == 0)
            for watcher in watchers:
                watcher.end()
        if validation_loader is not None:
            losses.write(updates, validate(model, validation_loader))


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
