"""DDPShardedStrategy: DistributedDataParallel averages gradients, and OSS divides updates between ranks."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from torchrelay.errors import UnsupportedError
from torchrelay.plugin import Capabilities
from torchrelay.strategies import (
    Build,
    Needs,
    ProcessGroupStrategy,
    StartMethod,
    StepDispatcher,
    average_gradients,
    share_buffers,
)
from torchrelay_fairscale import sharded_optimizer
from torchrelay_fairscale.plugin import SHARDED, SYNC_BATCHNORM_NEEDS_GPUS


class DDPShardedStrategy(ProcessGroupStrategy):
    """One process a device, each with the whole model; each rank updates a part of it and sends it to the others.

    Gradients are averaged by torch's DistributedDataParallel rather than by FairScale's ShardedDataParallel, whose
    buckets lose gradients that are set to None, and whose backward passes are wrong where two of them come before an
    update. So every rank sees whole gradients, by which they are clipped.

    Args:
        find_unused_parameters: look for parameters that take no part in a step.
        static_graph: every step takes the same way through the model.
        bucket_cap_mb: size of the buckets in which gradients are averaged, in MiB; torch's default when None.
        broadcast_fp16: send updated weights in 16 bits, which rounds them.
        options: those of `ProcessGroupStrategy`.
    """

    capabilities: ClassVar[Capabilities] = SHARDED

    def __init__(
        self,
        *,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        bucket_cap_mb: float | None = None,
        broadcast_fp16: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.broadcast_fp16 = broadcast_fp16
        self.ddp_arguments: dict[str, Any] = {
            "find_unused_parameters": find_unused_parameters,
            "static_graph": static_graph,
            "bucket_cap_mb": bucket_cap_mb,
            "gradient_as_bucket_view": True,
        }
        self._static_graph_unseen = False
        self._frozen: dict[str, nn.Parameter] = {}

    def refusals(self, needs: Needs) -> list[str]:
        """No SyncBatchNorm where torch has none."""
        reasons = super().refusals(needs)
        if self.sync_batchnorm and self.accelerator.name == "cpu":
            reasons.append(f"sync_batchnorm=True: {SYNC_BATCHNORM_NEEDS_GPUS}")
        return reasons

    # --- model and optimizers ---------------------------------------------------------------------------

    def setup(self, module: nn.Module, build: Build | None) -> None:
        """OSS moves parameters into tensors of its own, which the wrapper has to find there."""
        self.adopt(module)
        self.place()
        if build is not None:
            self.build(build)
            self.wrap()

    def place(self) -> None:
        """Move the model; synchronised batch norm first, so that the wrapper sees the final modules."""
        if self.sync_batchnorm:
            convert: Callable[..., nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
            self.adopt(convert(self.module))
        super().place()

    def build(self, build: Build) -> None:
        """Build the optimizers, and put OSS in the place of each."""
        super().build(build)
        names = self.parameter_names()
        for index, optimizer in enumerate(self.optimizers):
            new = sharded_optimizer.sharded(optimizer, names, broadcast_fp16=self.broadcast_fp16)
            self.swap_optimizer(index, new)
        self._frozen = {name: p for p, name in names.items() if not p.requires_grad}

    def wrap(self) -> None:
        """Wrap the model, unless nothing in it is trained."""
        if any(parameter.requires_grad for parameter in self.module.parameters()):
            device = None if self.root_device.type == "cpu" else [self.root_device]
            self.model = DistributedDataParallel(
                StepDispatcher(self.module), device_ids=device, **self.ddp_arguments
            )
            self._static_graph_unseen = bool(self.ddp_arguments["static_graph"])

    def unwrap(self) -> None:
        """Let go of the wrapper and of OSS's tensors before the process group goes."""
        super().unwrap()
        for optimizer in self.optimizers:
            if hasattr(optimizer, "consolidate_state_dict"):
                sharded_optimizer.release(optimizer)
        self._frozen = {}
        # The wrapper is part of a reference cycle, and one that outlives its process group leaves threads of gloo.
        gc.collect()

    # --- steps ------------------------------------------------------------------------------------------

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Every rank evaluates with rank 0's buffers; in training the wrapper shares them."""
        if name != "train":
            share_buffers(self.collectives, self.module)
        return super().stage(name)

    @property
    def _manual(self) -> bool:
        """Whether backward runs inside the training step, where the wrapper cannot average gradients."""
        return not getattr(self.module, "automatic_optimization", True)

    def raw_step(self, name: str) -> Callable[..., Any]:
        """Training goes through the wrapper; evaluation, and manual optimization, through the bare module."""
        if name != "training_step" or self.model is self.module or self._manual:
            return super().raw_step(name)
        model = self.model
        return lambda *args: model(name, *args)

    def accumulating(self) -> AbstractContextManager[Any]:
        """Gradients of a micro-batch that ends no window stay local."""
        if self.model is self.module or self._static_graph_unseen:
            # torch records a static graph in the first backward pass, which has to communicate for that.
            self._static_graph_unseen = False
            return super().accumulating()
        no_sync: AbstractContextManager[Any] = self.model.no_sync()  # type: ignore[operator]
        return no_sync

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        """Average the gradients that the wrapper could not: those of manual optimization."""
        if self._manual:
            average_gradients(self.collectives, optimizer)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        """Run the closure, let each rank update its part, and exchange the parts.

        Raises:
            UnsupportedError: a parameter that was frozen is trained now; nobody would send it.
        """
        result = closure()
        for name, parameter in self._frozen.items():
            if parameter.requires_grad:
                raise UnsupportedError(
                    f"{name} was frozen when training began, so ranks exchange neither its gradients nor its values; "
                    "unfreeze it before fit, or freeze it by a learning rate of zero"
                )
        self.precision_plugin.update(optimizer)
        return result

    # --- state ------------------------------------------------------------------------------------------

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The parts of all ranks, by parameter name."""
        # Of a rank that does not come, the hang watchdog learns by a collective first.
        self.collectives.barrier("optimizer_state")
        return sharded_optimizer.full_state(optimizer, self.parameter_names())

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Each rank takes its part."""
        sharded_optimizer.load_full_state(optimizer, state, self.parameter_names())


class DDPSpawnShardedStrategy(DDPShardedStrategy):
    """DDPShardedStrategy in processes that are started from this one.

    Args:
        start_method: "spawn" or "fork".
        options: see `DDPShardedStrategy`.
    """

    def __init__(self, *, start_method: StartMethod = "spawn", **options: Any) -> None:
        super().__init__(start_method=start_method, **options)
