"""The loop that one would write around a bare DeepSpeed engine; its processes come from torchrun."""

from __future__ import annotations

import deepspeed
import torch
from workload import Case, Clock, Losses, Network, make_optimizer, report, train


def main() -> None:
    case = Case.from_command_line()
    clock, losses = Clock(case), Losses()
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    network = Network(case.width, clock)
    engine, *_ = deepspeed.initialize(
        model=network,
        optimizer=make_optimizer(network.parameters()),
        config=make_config(int(case.strategy[-1])),
    )
    train(case, engine, clock, losses, update=lambda loss: update(engine, loss))
    if torch.distributed.get_rank() == 0:
        report(case, clock, losses)
    engine.destroy()
    torch.distributed.destroy_process_group()


def make_config(stage: int) -> dict[str, object]:
    """What `deepspeed_stage_0` to `deepspeed_stage_3` of torchrelay come to for this training."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage},
    }


def update(engine: deepspeed.DeepSpeedEngine, loss: torch.Tensor) -> None:
    engine.backward(loss)
    engine.step()


if __name__ == "__main__":
    main()
