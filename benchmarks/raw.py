"""The loop that one would write in plain PyTorch; several processes come from torchrun."""

from __future__ import annotations

import gc

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
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
    optimizer = make_optimizer(model.parameters())
    metrics = {}
    model.train()
    for step, (x, y) in enumerate(make_loader(case), start=1):
        loss = nn.functional.cross_entropy(model(x), y)
        if clock.logging:
            metrics["loss"] = loss.detach()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if metrics and step % LOG_EVERY == 0:
            losses.write(step, metrics["loss"].item())


if __name__ == "__main__":
    main()
