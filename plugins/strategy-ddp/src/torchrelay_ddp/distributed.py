"""What strategies that average gradients by DistributedDataParallel have in common."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from torchrelay.strategies import (
    Build,
    ProcessGroupStrategy,
    StepDispatcher,
    average_gradients,
    share_buffers,
)
from torchrelay_ddp.ddp_options import CommunicationHook, split


class Distributed(ProcessGroupStrategy):
    """Each process has the whole model; gradients are averaged during backward.

    Override `configure_ddp` to wrap the model yourself.

    Args:
        ddp_comm_hook: decides how gradients are communicated; see `torch.distributed.algorithms.ddp_comm_hooks`.
        ddp_comm_state: the hook's first argument.
        ddp_comm_wrapper: wraps the hook.
        model_averaging_period: updates between two averagings of the weights, for a post-local SGD hook.
        options: those of `ProcessGroupStrategy`, and the arguments of `torch.nn.parallel.DistributedDataParallel`;
            `gradient_as_bucket_view` is on unless turned off.

    Raises:
        ConfigurationError: an option is unknown, needs another, or excludes another.
    """

    def __init__(
        self,
        *,
        ddp_comm_hook: Callable[..., Any] | None = None,
        ddp_comm_state: Any = None,
        ddp_comm_wrapper: Callable[..., Any] | None = None,
        model_averaging_period: int | None = None,
        **options: Any,
    ) -> None:
        components, arguments = split(options, type(self))
        super().__init__(**components)
        self.communication = CommunicationHook(
            hook=ddp_comm_hook,
            state=ddp_comm_state,
            wrapper=ddp_comm_wrapper,
            model_averaging_period=model_averaging_period,
        )
        self.ddp_arguments = {"gradient_as_bucket_view": True, **arguments}
        self._static_graph_unseen = False

    # --- model ------------------------------------------------------------------------------------------

    def wrap(self) -> None:
        """Wrap the model, unless nothing in it is trained."""
        if not any(parameter.requires_grad for parameter in self.module.parameters()):
            return
        self.model = self.step_module()
        self.configure_ddp()
        if isinstance(self.model, DistributedDataParallel):
            self.communication.register(self.model)
            self._static_graph_unseen = self.model.static_graph

    def step_module(self) -> nn.Module:
        """The module to wrap, whose forward runs the step that its first argument names."""
        return StepDispatcher(self.module)

    def configure_ddp(self) -> None:
        """Wrap `self.model`; override to use a wrapper of your own."""
        self.model = DistributedDataParallel(
            self.model, device_ids=self.device_ids, **self.ddp_arguments
        )

    @property
    def device_ids(self) -> list[int] | None:
        """What DistributedDataParallel is to be told of this process's device: nothing."""
        return None

    def build(self, build: Build) -> None:
        """Build the optimizers; with post-local SGD they average the weights as well."""
        super().build(build)
        period = self.communication.model_averaging_period
        if period is None:
            return
        # Late: it takes torch a while to import, and few ask for it.
        from torchrelay_ddp.averaging import AveragingOptimizer

        warmup = self.communication.state.start_localSGD_iter
        for index, optimizer in enumerate(self.optimizers):
            self.swap_optimizer(index, AveragingOptimizer(optimizer, period, warmup))

    def unwrap(self) -> None:
        """Let go of the wrapper before the process group goes."""
        super().unwrap()
        # The wrapper is part of a reference cycle. One that outlives its process group leaves threads of gloo, which
        # can abort the interpreter at its end.
        gc.collect()

    # --- steps ------------------------------------------------------------------------------------------

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Every rank evaluates with rank 0's buffers; in training the wrapper shares them."""
        if name != "train" and self.ddp_arguments.get("broadcast_buffers", True):
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
        if self._static_graph_unseen:
            # torch records a static graph in the first backward pass, which has to communicate for that.
            self._static_graph_unseen = False
            return super().accumulating()
        if isinstance(self.model, DistributedDataParallel):
            no_sync: AbstractContextManager[Any] = self.model.no_sync()
            return no_sync
        return super().accumulating()

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        """Average the gradients that the wrapper could not: those of manual optimization."""
        if self._manual:
            average_gradients(self.collectives, optimizer)
