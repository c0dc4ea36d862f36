"""The loop that one would write with torch-xla on one device."""

from __future__ import annotations

import torch
import torch_xla
from torch_xla.distributed.parallel_loader import MpDeviceLoader
from workload import Case, Clock, Losses, Network, make_loader, make_optimizer, report, train


def main() -> None:
    case = Case.from_command_line()
    clock, losses, device = Clock(case), Losses(), torch_xla.device()
    network = Network(case.width, clock).to(device)
    optimizer = make_optimizer(network.parameters())

    def update(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    train(case, network, clock, losses, update, MpDeviceLoader(make_loader(case), device))
    report(case, clock, losses)


if __name__ == "__main__":
    main()
