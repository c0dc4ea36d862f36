"""What strategies that average gradients by DistributedDataParallel have in common."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from torchrelay.collectives import Collectives, TorchCollectives
from torchrelay.environments import LocalEnvironment
from torchrelay.errors import ConfigurationError
from torchrelay.launchers import Launcher, ScriptLauncher
from torchrelay.strategies import Build, Needs, ParallelStrategy, StepDispatcher
from torchrelay_ddp.buffers import share_buffers
from torchrelay_ddp.ddp_options import CommunicationHook, split
from torchrelay_ddp.gradients import average_gradients


class Distributed(ParallelStrategy):
    """Each process has the whole model; gradients are averaged during backward.

    Override `configure_ddp` to wrap the model yourself.

    Args:
        process_group_backend: backend of torch.distributed; the accelerator's when None.
        timeout: how long a collective may wait; torch's default when None.
        ddp_comm_hook: decides how gradients are communicated; see `torch.distributed.algorithms.ddp_comm_hooks`.
        ddp_comm_state: the hook's first argument.
        ddp_comm_wrapper: wraps the hook.
        model_averaging_period: updates between two averagings of the weights, for a post-local SGD hook.
        options: the components of a strategy (see `Strategy`), `parallel_devices`, and the arguments of
            `torch.nn.parallel.DistributedDataParallel`; `gradient_as_bucket_view` is on unless turned off.

    Raises:
        ConfigurationError: an option is unknown, needs another, or excludes another.
    """

    def __init__(
        self,
        *,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        ddp_comm_hook: Callable[..., Any] | None = None,
        ddp_comm_state: Any = None,
        ddp_comm_wrapper: Callable[..., Any] | None = None,
        model_averaging_period: int | None = None,
        **options: Any,
    ) -> None:
        components, arguments = split(options, type(self))
        super().__init__(**components)
        self.process_group_backend = process_group_backend
        self.timeout = timeout
        self._collectives_given = components.get("collectives") is not None
        if self._collectives_given:
            self._refuse_beside_collectives()
        self.communication = CommunicationHook(
            hook=ddp_comm_hook,
            state=ddp_comm_state,
            wrapper=ddp_comm_wrapper,
            model_averaging_period=model_averaging_period,
        )
        self.ddp_arguments = {"gradient_as_bucket_view": True, **arguments}
        self._static_graph_unseen = False

    def _refuse_beside_collectives(self) -> None:
        for name in ("process_group_backend", "timeout"):
            if getattr(self, name) is not None:
                raise ConfigurationError(
                    f"{name} and collectives are both given to {type(self).__name__}, and {name} is for those that it "
                    f"makes itself; leave one out, or give collectives=TorchCollectives(backend=..., timeout=...)"
                )

    # --- composition ------------------------------------------------------------------------------------

    def default_collectives(self) -> Collectives:
        """torch.distributed, with the backend of the accelerator unless one was given."""
        backend = self.process_group_backend or self.accelerator.process_group_backend
        return TorchCollectives(backend=backend, timeout=self.timeout)

    def default_launcher(self) -> Launcher | None:
        """The strategy's own on this machine, also in the processes it made; none where a cluster makes them."""
        environment = self.cluster_environment
        return (
            self.local_launcher(environment) if isinstance(environment, LocalEnvironment) else None
        )

    def local_launcher(self, environment: LocalEnvironment) -> Launcher:
        """Makes this machine's processes: runs the script again in each."""
        return ScriptLauncher(environment, self.processes_per_node)

    def refusals(self, needs: Needs) -> list[str]:
        """No accelerator without collectives."""
        reasons = super().refusals(needs)
        backend = self.process_group_backend or self.accelerator.process_group_backend
        if not backend and not self._collectives_given:
            reasons.append(
                f"torch.distributed has no backend for accelerator {self.accelerator.name!r}; take devices=1, or name "
                "one by process_group_backend"
            )
        return reasons

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
