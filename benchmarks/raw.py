"""The loop that one would write in plain PyTorch; several processes come from torchrun."""

from __future__ import annotations

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
    model: nn.Module = Network(case.width, clock)
    if case.processes > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(model, **DDP_ARGUMENTS)
    train(case, model, clock, losses)
    if case.processes == 1 or dist.get_rank() == 0:
        report(case, clock, losses)
    if case.processes > 1:
        dist.destroy_process_group()


def train(case: Case, model: nn.Module, clock: Clock, losses: Losses) -> None:
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
