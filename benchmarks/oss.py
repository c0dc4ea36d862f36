"""The loop that one would write around FairScale's bare OSS; its processes come from torchrun."""

from __future__ import annotations

import gc

import torch
import torch.distributed as dist
from fairscale.optim.oss import OSS
from torch.nn.parallel import DistributedDataParallel
from workload import DDP_ARGUMENTS, Case, Clock, Losses, Network, make_optimizer, report, train


def main() -> None:
    case = Case.from_command_line()
    dist.init_process_group("gloo")
    measure(case)
    # DistributedDataParallel is part of a cycle; alive at the end, it keeps threads that abort the process.
    gc.collect()
    dist.destroy_process_group()


def measure(case: Case) -> None:
    clock, losses = Clock(case), Losses()
    network = Network(case.width, clock)
    plain = make_optimizer(network.parameters())
    optimizer = OSS(network.parameters(), optim=type(plain), lr=plain.defaults["lr"])
    model = DistributedDataParallel(network, **DDP_ARGUMENTS)

    def update(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    train(case, model, clock, losses, update)
    if dist.get_rank() == 0:
        report(case, clock, losses)


if __name__ == "__main__":
    main()
