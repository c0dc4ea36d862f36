"""FairScale's OSS by itself, under its own wrapper and under torch's: how far each arrives from one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from problems import BATCH, Regression, data, leave, state_of
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

UPDATES = 7


def train(wrap: Any, clear: Any, optimize: Any, ranks: int, rank: int, passes: int = 1) -> Any:
    """The state after some updates, each of so many backward passes over equal parts of a batch."""
    torch.manual_seed(3)
    module = Regression()
    optimizer = optimize(module)
    model = wrap(module, optimizer)
    x, y, _ = data().tensors
    for update in range(UPDATES):
        clear(model, optimizer)
        part = BATCH // ranks // passes
        for number in range(passes):
            # The samples of a pass are shared out between the ranks, as by a sampler.
            begin = update * BATCH + number * part * ranks + rank * part
            chosen = slice(begin, begin + part)
            (mse_loss(model(x[chosen]), y[chosen]) / passes).backward()
        optimizer.step()
    return state_of(module)


def main() -> None:
    from fairscale.nn.data_parallel import ShardedDataParallel
    from fairscale.optim.oss import OSS

    def alone(passes: int = 1) -> Any:
        def sgd(module: Any) -> Any:
            return torch.optim.SGD(module.parameters(), lr=0.05)

        return train(lambda m, _: m, lambda _, o: o.zero_grad(), sgd, 1, 0, passes)

    def oss(module: Any) -> Any:
        return OSS(module.parameters(), optim=torch.optim.SGD, lr=0.05)

    dist.init_process_group("gloo")
    wraps = {
        "buckets": ShardedDataParallel,
        "no buckets": lambda m, o: ShardedDataParallel(m, o, reduce_buffer_size=0),
        "ddp": lambda m, o: DistributedDataParallel(m),
    }
    clears = {
        "none": lambda m, o: o.zero_grad(set_to_none=True),
        "zeros": lambda m, o: o.zero_grad(set_to_none=False),
    }
    distances = {}
    for name, how, passes in (
        ("buckets", "none", 1),
        ("buckets", "zeros", 1),
        ("no buckets", "none", 1),
        ("ddp", "none", 1),
        ("no buckets", "none", 2),
        ("ddp", "none", 2),
    ):
        expected = alone(passes)
        found = train(wraps[name], clears[how], oss, 2, dist.get_rank(), passes)
        key = f"{name}, {'twice' if passes == 2 else how}"
        distances[key] = max(float((found[n] - expected[n]).abs().max()) for n in expected)
    leave("bare", dist.get_rank(), distances)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
