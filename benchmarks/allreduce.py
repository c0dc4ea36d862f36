"""The loop that one would write around bare Horovod; its processes come from horovodrun."""

from __future__ import annotations

import horovod.torch as hvd
import torch
from workload import Case, Clock, Losses, Network, make_optimizer, report, train


def main() -> None:
    case = Case.from_command_line()
    clock, losses = Clock(case), Losses()
    hvd.init()
    network = Network(case.width, clock)
    hvd.broadcast_parameters(network.state_dict(), root_rank=0)
    optimizer = hvd.DistributedOptimizer(
        make_optimizer(network.parameters()), named_parameters=network.named_parameters()
    )

    def update(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    train(case, network, clock, losses, update)
    if hvd.rank() == 0:
        report(case, clock, losses)
    hvd.shutdown()


if __name__ == "__main__":
    main()
