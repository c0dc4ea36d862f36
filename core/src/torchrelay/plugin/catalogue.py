"""Backends that we know, whether or not they are installed, and names of the past. Data only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A backend of the torchrelay family.

    Attributes:
        extra: the extra of torchrelay that installs it.
        distribution: its distribution.
        summary: what it is, in a few words.
        published: whether there is such a distribution; until then a message must not tell anybody
            to install it.
        strategies: its strategy classes, each with its aliases.
        accelerators: the accelerators that it brings.
        shared: of its aliases, those that another backend or core gives as well; it claims them for its own
            accelerators only.
    """

    extra: str
    distribution: str
    summary: str
    published: bool
    strategies: Mapping[str, tuple[str, ...]]
    accelerators: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def aliases(self) -> tuple[str, ...]:
        """Every alias, those that it shares included."""
        return (*(alias for aliases in self.strategies.values() for alias in aliases), *self.shared)


def _unused_parameters(*aliases: str, values: Iterable[str] = ("true", "false")) -> tuple[str, ...]:
    presets = [f"{alias}_find_unused_parameters_{value}" for alias in aliases for value in values]
    return (*aliases, *presets)


BACKENDS: tuple[Backend, ...] = (
    Backend(
        extra="ddp",
        distribution="torchrelay-ddp",
        summary="torch's DistributedDataParallel and DataParallel",
        published=True,
        strategies={
            "DDPStrategy": _unused_parameters("ddp"),
            "DDPSpawnStrategy": _unused_parameters("ddp_spawn", "ddp_fork", "ddp_notebook"),
            "DDP2Strategy": ("ddp2",),
            "DataParallelStrategy": ("dp",),
        },
    ),
    Backend(
        extra="fairscale",
        distribution="torchrelay-fairscale",
        summary="FairScale: sharded and fully sharded data parallel",
        published=True,
        strategies={
            "DDPShardedStrategy": _unused_parameters("ddp_sharded", values=["false"]),
            "DDPSpawnShardedStrategy": _unused_parameters("ddp_sharded_spawn", values=["false"]),
            "DDPFullyShardedStrategy": ("ddp_fully_sharded",),
        },
    ),
    Backend(
        extra="deepspeed",
        distribution="torchrelay-deepspeed",
        summary="DeepSpeed: ZeRO, offload, NVMe",
        published=True,
        strategies={
            "DeepSpeedStrategy": (
                "deepspeed",
                "deepspeed_stage_0",
                "deepspeed_stage_1",
                "deepspeed_stage_2",
                "deepspeed_stage_2_offload",
                "deepspeed_stage_3",
                "deepspeed_stage_3_offload",
                "deepspeed_stage_3_offload_nvme",
            ),
        },
    ),
    Backend(
        extra="tpu",
        distribution="torchrelay-tpu",
        summary="torch-xla: TPUs; one device, a replica for each, or sharded by annotation",
        published=True,
        strategies={
            "TPUSpawnStrategy": ("tpu_spawn", "tpu_spawn_debug"),
            "SingleTPUStrategy": ("single_tpu",),
            "XLASPMDStrategy": ("tpu_spmd", "tpu_fsdp"),
        },
        accelerators=("tpu",),
        shared=("ddp", "ddp_spawn", "single_device"),
    ),
    Backend(
        extra="ipu",
        distribution="torchrelay-ipu",
        summary="Graphcore's IPUs",
        published=True,
        strategies={"IPUStrategy": ("ipu_strategy", "ipu")},
        accelerators=("ipu",),
    ),
    Backend(
        extra="hpu",
        distribution="torchrelay-hpu",
        summary="Habana's Gaudi",
        published=True,
        strategies={"HPUParallelStrategy": ("hpu_parallel",), "SingleHPUStrategy": ("hpu_single",)},
        accelerators=("hpu",),
        shared=("ddp", "single_device"),
    ),
    Backend(
        extra="horovod",
        distribution="torchrelay-horovod",
        summary="Horovod: gradients averaged by allreduce, elastic jobs",
        published=True,
        strategies={"HorovodStrategy": ("horovod",)},
    ),
    Backend(
        extra="bagua",
        distribution="torchrelay-bagua",
        summary="Bagua: gradients in 8 bits, decentralized and asynchronous averaging",
        published=True,
        strategies={
            "BaguaStrategy": (
                "bagua",
                "bagua_bytegrad",
                "bagua_decentralized",
                "bagua_low_precision_decentralized",
                "bagua_async",
                "bagua_qadam",
            ),
        },
    ),
)

_FSDP = (
    "torchrelay has no strategy for torch's own FSDP yet, and keeps the name for it; "
    "FairScale's fully sharded data parallel is 'ddp_fully_sharded'"
)

_HIVEMIND = (
    "Hivemind is not supported; for machines that come and go, run strategy='ddp' under torchrun"
)

RETIRED: Mapping[str, str] = MappingProxyType(
    {
        "ddp_cpu": "write strategy='ddp_spawn' or strategy='ddp', with accelerator='cpu'",
        "fsdp": _FSDP,
        "fsdp_native": _FSDP,
        "fsdp_cpu_offload": _FSDP,
        "xla": "write strategy='tpu_spawn'",
        "xla_debug": "write strategy='tpu_spawn_debug'",
        "single_xla": "write strategy='single_tpu'",
        "xla_fsdp": "write strategy='tpu_fsdp'",
        "colossalai": "ColossalAI is not supported; the nearest is 'deepspeed_stage_3'",
        "hivemind": _HIVEMIND,
        "collaborative": _HIVEMIND,
        "rpc_sequential": "pipelines over torch's RPC are not supported",
    }
)
"""Strategy names of Lightning that torchrelay does not use, and what to do instead."""

CHOICES = ("auto", "gpu")
"""What a Trainer takes in place of an accelerator's name, and chooses one by."""

PRECISION_SPELLINGS: Mapping[str, str] = MappingProxyType(
    {"16": "16-mixed", "32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}
)
"""Lightning's older spellings of precisions."""


def backend_of_alias(alias: str, accelerator: str | None = None) -> Backend | None:
    """The backend that gives `alias`: the one for that accelerator if there is one."""
    for backend in BACKENDS:
        if alias in backend.aliases and accelerator in backend.accelerators:
            return backend
    return next((b for b in BACKENDS if alias in b.aliases and alias not in b.shared), None)


def backend_of_class(class_name: str) -> Backend | None:
    """The backend that gives that strategy class."""
    return next((backend for backend in BACKENDS if class_name in backend.strategies), None)


def backend_of_accelerator(name: str) -> Backend | None:
    """The backend that brings that accelerator."""
    return next((backend for backend in BACKENDS if name in backend.accelerators), None)
