"""DeepSpeed engines on a tiny model, and the same model trained by torch alone, for the programs beside it."""

from __future__ import annotations

import os
import sys
import warnings

warnings.filterwarnings(
    "ignore"
)  # DeepSpeed's own; what torchrelay warns of is looked for where it is due
import deepspeed  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from deepspeed.accelerator import get_accelerator  # noqa: E402
from deepspeed.ops.adam import DeepSpeedCPUAdam  # noqa: E402
from torch import nn  # noqa: E402

from torchrelay_deepspeed.optimizer_state import group_names, undo_first_step  # noqa: E402

OUT = os.environ.get("OUT", ".")
BATCH = 4


class Model(nn.Module):
    """Odd sizes, so that shards cut through parameters; two groups, a frozen part, a tied weight, buffers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Linear(5, 7)
        self.frozen = nn.Linear(7, 7)
        self.norm = nn.LayerNorm(7)
        self.register_buffer("shift", torch.full((7,), 0.1))
        self.second = nn.Linear(7, 5, bias=False)
        self.tied = nn.Linear(7, 5, bias=False)
        self.tied.weight = self.second.weight
        self.scale = nn.Parameter(
            torch.full((1,), 1.5)
        )  # one of no dimensions, DeepSpeed 0.19.8 cannot broadcast
        self.frozen.requires_grad_(False)

    def forward(self, x):
        hidden = torch.tanh(self.frozen(self.first(x)))
        hidden = self.norm(hidden) + self.shift.to(hidden.dtype)
        return (self.second(hidden) + self.tied(hidden.flip(1))) * self.scale


class Outer(nn.Module):
    """A module around the user's, as a strategy may make it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
    "cpuadam": lambda groups: DeepSpeedCPUAdam(groups, lr=0.01, weight_decay=0.1),
}


def optimizer_of(model, name):
    groups = [
        {"params": [*model.first.parameters(), *model.frozen.parameters(), model.scale]},
        {"params": [*model.norm.parameters(), model.second.weight], "lr": 0.02},
    ]
    return OPTIMIZERS[name](groups)


def engine_of(
    stage=0,
    precision="32",
    optimizer="adam",
    offload=None,
    zero=None,
    model=None,
    undo=True,
    inside=False,
    **more,
):
    """An engine, which knows the user's module, and the names of its optimizer's groups."""
    zero = {"stage": stage, "stage3_param_persistence_threshold": 8, **(zero or {})}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    if offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    config = {
        "train_micro_batch_size_per_gpu": 2 * BATCH // dist.get_world_size(),
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        **more,
    }
    if precision == "bf16":
        config["bf16"] = {"enabled": True}
    if precision == "16":
        config["fp16"] = {"enabled": True, "initial_scale_power": 8, "loss_scale_window": 3}
    model = model or Model()
    made = optimizer_of(model, optimizer)
    groups = group_names(made, model)
    outer = Outer(model) if inside else model
    engine, *_ = deepspeed.initialize(model=outer, optimizer=made, config=config)
    engine.users_module = model
    if undo:
        undo_first_step(engine)
    return engine, groups


def data(step, rank, world):
    """The same global batch whatever the number of ranks."""
    generator = torch.Generator().manual_seed(100 + step)
    whole = torch.randn(2 * BATCH, 5, generator=generator)
    share = 2 * BATCH // world
    return whole[rank * share : (rank + 1) * share]


def train(engine, first, last):
    """Updates `first` to `last` of an engine."""
    dtype = next(engine.module.parameters()).dtype
    for step in range(first, last):
        x = data(step, dist.get_rank(), dist.get_world_size()).to(dtype)
        loss = F.mse_loss(engine(x).float(), torch.ones(len(x), 5))
        if not engine.zero_optimization() and engine.fp16_enabled():
            loss = (
                loss * engine.optimizer.loss_scale
            )  # which DeepSpeed divides by, and has not multiplied by
        engine.backward(loss)
        engine.step()


def train_alone(model, optimizer, first, last):
    """The same by torch alone, in fp32."""
    for step in range(first, last):
        x = data(step, 0, 1)
        optimizer.zero_grad()
        F.mse_loss(model(x), torch.ones(len(x), 5)).backward()
        optimizer.step()


def start():
    """Join the process group; the number of this process."""
    # It asks for AVX512-FP16, without which torch computes in fp16 all the same, slowly.
    get_accelerator().is_fp16_supported = lambda: True
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return dist.get_rank()


def share(value):
    """What rank 0 has, on every rank."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def end(**results):
    """Leave this rank's results, and the process group."""
    torch.save(results, os.path.join(OUT, f"result-{dist.get_rank()}.pt"))
    dist.barrier()
    sys.stdout.flush()
    dist.destroy_process_group()
