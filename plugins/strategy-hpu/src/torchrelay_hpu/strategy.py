"""SingleHPUStrategy and HPUParallelStrategy: one process on one HPU, or several whose gradients HCCL averages."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from torchrelay.collectives import Collectives
from torchrelay.plugin import Capabilities
from torchrelay.strategies import (
    Needs,
    ProcessGroupStrategy,
    SingleDeviceStrategy,
    StepDispatcher,
    average_gradients,
    share_buffers,
)
from torchrelay_hpu import vendor
from torchrelay_hpu.collectives import HCCLCollectives
from torchrelay_hpu.compiling import CompiledStep
from torchrelay_hpu.marking import Marking
from torchrelay_hpu.plugin import PARALLEL_CAPABILITIES, SINGLE_CAPABILITIES

BUCKET_MEGABYTES = 230
"""Gradients that travel together.

As many as in HabanaAI/Model-References at 084bc85c, PyTorch/nlp/finetuning/huggingface/bert: transformers' trainer.py.
"""

BACKEND = "HCCL_DISTRIBUTED_BACKEND"
"""Environment variable by which the vendor's code knows that HCCL is in use."""


SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)
"""The wrapper's name, in this torch, for the sending of buffers in each forward; here evaluation begins with it."""


class SingleHPUStrategy(Marking, SingleDeviceStrategy):
    """One process on one HPU.

    Args:
        options: see `Marking` (`compile`, `hpu_graphs`, `fused_adamw`, `fused_clip_norm`) and `SingleDeviceStrategy`.
    """

    capabilities: ClassVar[Capabilities] = SINGLE_CAPABILITIES


class HPUParallelStrategy(Marking, ProcessGroupStrategy):
    """One process an HPU, each with the whole model; gradients are averaged by HCCL during backward.

    Override `configure_ddp` to wrap the model yourself.

    Args:
        bucket_cap_mb: megabytes of gradients that travel together.
        find_unused_parameters: look for parameters that take no part in a step; in eager mode.
        options: see `Marking` (`compile`, `hpu_graphs`, `fused_adamw`, `fused_clip_norm`) and `ProcessGroupStrategy`.
    """

    capabilities: ClassVar[Capabilities] = PARALLEL_CAPABILITIES

    def __init__(
        self,
        *,
        bucket_cap_mb: int = BUCKET_MEGABYTES,
        find_unused_parameters: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.bucket_cap_mb = bucket_cap_mb
        self.find_unused_parameters = find_unused_parameters
        self._before: dict[str, str | None] | None = None

    # --- what it can do ---------------------------------------------------------------------------------

    def refusals(self, needs: Needs) -> list[str]:
        """No other collectives than HCCL's, nothing that HCCL cannot do."""
        reasons = super().refusals(needs)
        if self.process_group_backend not in (None, "hccl"):
            reasons.append(
                f"process_group_backend={self.process_group_backend!r}: tensors on an HPU travel by 'hccl' alone; "
                "leave it out"
            )
        if self.find_unused_parameters and vendor.lazy():
            reasons.append(
                "find_unused_parameters=True combines integers, which HCCL does not take in lazy mode; set "
                "PT_HPU_LAZY_MODE=0 before Python starts, or let every parameter take part"
            )
        return reasons

    def default_collectives(self) -> Collectives:
        """HCCL's."""
        return HCCLCollectives(timeout=self.timeout)

    # --- process life -----------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Choose this process's module and meet the others; the environment is put back afterwards. Collective."""
        if self._before is None:
            self._before = {**vendor.environment(), BACKEND: os.environ.get(BACKEND)}
        vendor.load()
        vendor.tell_ranks(self.world_size, self.global_rank, self.local_rank)
        os.environ[BACKEND] = "1"
        super().setup_environment()

    def teardown(self) -> None:
        """Part from the others, and put the environment back."""
        try:
            super().teardown()
        finally:
            if self._before is not None:
                vendor.restore(self._before)
                self._before = None

    # --- model ------------------------------------------------------------------------------------------

    def wrap(self) -> None:
        """Wrap the model, unless nothing in it is trained."""
        if any(parameter.requires_grad for parameter in self.module.parameters()):
            step = super().raw_step("training_step")
            compiles = self.settings.compiles
            self.model = (
                CompiledStep(self.module, step) if compiles else StepDispatcher(self.module)
            )
            self.configure_ddp()

    def configure_ddp(self) -> None:
        """Wrap `self.model`; override to use a wrapper of your own. A process has one device, which has no index."""
        buffers: dict[str, Any] = {SYNC_BUFFERS: False}
        self.model = DistributedDataParallel(
            self.model,
            bucket_cap_mb=self.bucket_cap_mb,
            gradient_as_bucket_view=True,
            find_unused_parameters=self.find_unused_parameters,
            **buffers,
        )

    def unwrap(self) -> None:
        """Let go of the wrapper before the process group goes."""
        super().unwrap()
        gc.collect()  # the wrapper is part of a reference cycle

    # --- steps ------------------------------------------------------------------------------------------

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Every rank evaluates with rank 0's buffers. Collective."""
        if name != "train":
            share_buffers(self.collectives, self.module)
        return super().stage(name)

    @property
    def _wraps(self) -> bool:
        """Whether training goes through the wrapper; in manual optimization backward runs inside its forward."""
        by_hand = not getattr(self.module, "automatic_optimization", True)
        return self.model is not self.module and not by_hand

    def raw_step(self, name: str) -> Callable[..., Any]:
        """Training goes through the wrapper; evaluation, and manual optimization, through the bare module."""
        if name != "training_step" or not self._wraps:
            return super().raw_step(name)
        model: nn.Module = self.model
        return lambda *args: model(name, *args)

    def accumulating(self) -> AbstractContextManager[Any]:
        """Gradients of a micro-batch that ends no window stay local."""
        if isinstance(self.model, DistributedDataParallel):
            no_sync: AbstractContextManager[Any] = self.model.no_sync()
            return no_sync
        return super().accumulating()

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        """Average the gradients that the wrapper could not: those of manual optimization."""
        if self.model is not self.module and not self._wraps:
            average_gradients(self.collectives, optimizer)
