"""The only module that imports DeepSpeed, when a function here is called; and what is known of the installed one."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

from torchrelay_deepspeed.plugin import INSTALL
from torchrelay_deepspeed.raw import RawConfig

OLDEST, BEYOND = (0, 19, 8), (0, 20)
"""DeepSpeed's releases from the first to before the second are the ones that were run."""

EXTENSIONS = (
    "async_io",
    "cpu_adagrad",
    "cpu_adam",
    "cpu_lion",
    "deepspeed_shm_comm",
    "fused_adam",
    "fused_lamb",
    "fused_lion",
    "pin_memory",
)
"""What DeepSpeed compiles for training, when it is first used: the names of the folders."""

_CPU = {"adagrad": "cpu_adagrad", "adam": "cpu_adam", "adamw": "cpu_adam", "lion": "cpu_lion"}
_FUSED = {"lamb": "fused_lamb", "lion": "fused_lion"}
_ADAM = ("adam", "adamw")


def version() -> str | None:
    """Version of the installed DeepSpeed; None if there is none."""
    try:
        return importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        return None


def tested() -> str | None:
    """Whether the installed DeepSpeed is one that was run: None, or what is wrong and the command that mends it."""
    found = version()
    if found is None:
        return f"DeepSpeed is not installed: {INSTALL}"
    release = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if OLDEST <= release < BEYOND:
        return None
    first, last = (".".join(map(str, each)) for each in (OLDEST, BEYOND))
    return (
        f"DeepSpeed {found} is not one that torchrelay-deepspeed was tested with, which are those from {first} to "
        f"before {last}: {INSTALL}"
    )


def compiles(config: RawConfig, accelerator: str) -> Iterator[str]:
    """Names of the extensions that a run is known to need; an optimizer of the user's own may need another.

    Args:
        config: DeepSpeed's own.
        accelerator: `"cpu"`, `"cuda"`, ...: on the CPU ranks also communicate by an extension.
    """
    if accelerator == "cpu":
        yield "deepspeed_shm_comm"
    if config.on_nvme:
        yield from ("pin_memory", "async_io")
    name = str(config.optimizer).lower()
    if config.offload("optimizer"):
        yield from filter(None, [_CPU.get(name)])
    elif name in _ADAM and config.get("optimizer.params.torch_adam") is False:
        yield "fused_adam"
    else:
        yield from filter(None, [_FUSED.get(name)])


def connect(device_type: str, backend: str | None, places: Mapping[str, str]) -> None:
    """Let DeepSpeed use the process group that there is. Collective where it has to compile for that.

    Args:
        device_type: of the devices that compute; DeepSpeed would guess.
        backend: of torch.distributed.
        places: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which DeepSpeed reads where it needs them.
    """
    os.environ.update(places, DS_ACCELERATOR=device_type)
    sdk = import_module("deepspeed")
    sdk.accelerator.set_accelerator(_accelerator(device_type))
    sdk.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def disconnect() -> None:
    """Forget the process group: DeepSpeed keeps it, and groups made of it, for as long as the process lives."""
    comm: Any
    comm, groups = import_module("deepspeed.comm.comm"), import_module("deepspeed.utils.groups")
    comm.cdb = None
    for name in list(vars(groups)):
        if name.endswith("_GROUP"):
            setattr(groups, name, None)


def _accelerator(device_type: str) -> Any:
    name = {"cpu": "CPU_Accelerator", "cuda": "CUDA_Accelerator"}[device_type]
    return getattr(import_module(f"deepspeed.accelerator.{device_type}_accelerator"), name)()


def make_engine(
    model: Any, optimizer: Any, config: Mapping[str, Any], parameters: Iterable[Any] | None
) -> Any:
    """The engine around a model.

    Args:
        model: whose forward runs a step.
        optimizer: the user's; None for that of the configuration, or for none.
        config: from `settle`.
        parameters: what an optimizer of the configuration updates; None if there is none.
    """
    sdk = import_module("deepspeed")
    if _on_disk_in_fp32(config) and not any(hasattr(each, "ds_id") for each in model.parameters()):
        sharded_init(config, model)
    engine, *_ = sdk.initialize(
        model=model,
        optimizer=optimizer,
        model_parameters=parameters,
        config=dict(config),
        dist_init_required=False,
    )
    _align_gradients(getattr(engine.optimizer, "optimizer_swapper", None))
    return engine


def _on_disk_in_fp32(config: Mapping[str, Any]) -> bool:
    """Whether parameters in fp32 are kept on NVMe, where 0.19.8 would store bf16 on a CPU without fp16, unseen."""
    short = any(config.get(name, {}).get("enabled") for name in ("bf16", "fp16"))
    return not short and RawConfig(config, "").offload("param").get("device") == "nvme"


def _align_gradients(swapper: Any) -> None:
    """Let what begins at an odd place of a shard's gradients stay in memory, up to the next even one.

    0.19.8 writes a large gradient to NVMe from where it lies, and reads it back to there; but a disk reads to even
    addresses alone, and that it could not, nobody is told: the update is made with what happened to be there.
    """
    if swapper is None:
        return
    split = swapper._adjust_for_misaligned_lengths  # noqa: SLF001 - where it sees to the other end

    def split_at_both_ends(tensors: Iterable[Any], offsets: Iterable[int]) -> Any:
        parts = []
        for tensor, offset in zip(tensors, offsets, strict=True):
            odd = min(-offset % swapper.numel_alignment, tensor.numel())
            if odd and swapper.is_swappable_tensor(tensor=tensor):
                parts.append((tensor.narrow(0, 0, odd), offset))
                tensor, offset = tensor.narrow(0, odd, tensor.numel() - odd), offset + odd
            parts.append((tensor, offset))
        return split(*map(list, zip(*parts, strict=True)))

    swapper._adjust_for_misaligned_lengths = split_at_both_ends  # noqa: SLF001


def destroy(engine: Any, optimizer: Any) -> None:
    """Destroy an engine, and let go of the process groups that it refers to, as hooks of its own keep it alive.

    Args:
        engine: what `make_engine` gave.
        optimizer: torch's, which stays as it is; None if there is none.
    """
    engine.destroy()
    wrapper = engine.optimizer
    for each in (engine, getattr(wrapper, "parameter_offload", None), wrapper):
        if each is not None and each is not optimizer:
            vars(each).clear()


def backward(engine: Any, loss: Any) -> None:
    """Run the backward pass of a loss, which is scaled if the format needs that."""
    engine.backward(_prepared(engine, loss), scale_wrt_gas=False)


def backward_by(engine: Any, function: Callable[[Any], Any], loss: Any) -> None:
    """Let a function of the user's run the backward pass of a loss, which is scaled first if the format needs that."""
    loss = engine.scale(_prepared(engine, loss))
    if engine.zero_optimization_stage():
        function(loss)
        return
    # At stage 0 the engine takes its own `backward` alone, and knows by these counts that it is inside.
    engine._running_engine_backward_count += 1  # noqa: SLF001
    engine._running_engine_backward = True  # noqa: SLF001
    try:
        function(loss)
        engine._backward_epilogue()  # noqa: SLF001
    finally:
        engine._running_engine_backward_count -= 1  # noqa: SLF001
        engine._running_engine_backward = False  # noqa: SLF001


def _prepared(engine: Any, loss: Any) -> Any:
    """A loss as the engine scales it under fp16: with room for the product.

    At stage 0 the engine of 0.19.8 does not multiply by the scale, and its optimizer divides by it (`scale` and
    `backward` of DeepSpeedEngine, `unscale_and_clip_grads` of FP16_UnfusedOptimizer and FP16_Optimizer).
    """
    if not engine.fp16_enabled():
        return loss
    return loss.float() * (1 if engine.zero_optimization_stage() else engine.optimizer.loss_scale)


def configure_checkpointing(config: Mapping[str, Any]) -> None:
    """Let `deepspeed.checkpointing.checkpoint` follow the configuration, if that has a section for it."""
    if config.get("activation_checkpointing") is not None:
        checkpointing = import_module("deepspeed").checkpointing
        checkpointing.configure(None, deepspeed_config=dict(config))


HOLDER = -1
"""Stands for a layer that is at work from before a forward until after its backward; none has this number."""


def sharded_init(config: Mapping[str, Any], module: Any = None) -> AbstractContextManager[Any]:
    """Context in which modules are made with each rank holding its part of every parameter.

    Args:
        config: from `settle`.
        module: one that is there already, whose parameters are divided at once; there is no context to enter then.
    """
    zero = import_module("deepspeed.runtime.zero")
    # The format is that of the configuration: a `dtype`, 0.19.8 overlooks on a CPU without fp16, and takes bf16.
    context: AbstractContextManager[Any] = zero.Init(
        module=module, config_dict_or_path=dict(config)
    )
    return context


def gathered(
    parameters: Iterable[Any], modifier_rank: int | None = None
) -> AbstractContextManager[Any]:
    """Context in which parameters that ranks divide at stage 3 are whole on every rank. Collective.

    Others, as all are at the other stages, stay as they are, and so do small ones that are whole for a step. To be used
    by all ranks alike, in hooks too.

    Args:
        parameters: those that are to be whole.
        modifier_rank: whose changes count; None if there are none. The optimizer updates copies of its own: what is
            changed has to be changed before they are made, in `configure_model` or `configure_optimizers`.
    """
    divided = [
        each
        for each in parameters
        if hasattr(each, "ds_id") and HOLDER not in each.ds_active_sub_modules
    ]
    if not divided:
        return nullcontext()
    zero = import_module("deepspeed.runtime.zero")
    context: AbstractContextManager[Any] = zero.GatheredParameters(
        divided, modifier_rank=modifier_rank
    )
    return context
