"""BaguaStrategy: one process a GPU, gradients or weights combined by one of Bagua's algorithms."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.collectives import Collectives
from torchrelay.environments import LocalEnvironment
from torchrelay.errors import ConfigurationError
from torchrelay.launchers import Launcher, MultiProcessingLauncher, ScriptLauncher
from torchrelay.plugin import Capabilities, Capability
from torchrelay.strategies import (
    Build,
    Needs,
    ParallelStrategy,
    StepDispatcher,
    average_gradients,
    share_buffers,
)
from torchrelay_bagua import refused, vendor
from torchrelay_bagua.algorithms import Algorithm, AsyncAverage, QAdam, algorithm_of
from torchrelay_bagua.averaging import average_weights, averaged_state
from torchrelay_bagua.collectives import BaguaCollectives
from torchrelay_bagua.names import name_of
from torchrelay_bagua.plugin import ACCELERATORS, CAPABILITIES, NOT_THE_CPU
from torchrelay_bagua.taking_part import TakingPart

StartMethod = Literal["script", "spawn", "fork"]

_OPERATIONS = {"avg": "mean", "prod": "product"}


class BaguaStrategy(ParallelStrategy):
    """One process a GPU, each with the whole model; one of Bagua's algorithms combines gradients or weights.

    Rank 0 starts Bagua's service, by which ranks agree on buckets, as a process of its own, a daemon of
    `multiprocessing`: it ends with rank 0's, but outlives one that SIGKILL or `os._exit` ends. **It listens on every
    network interface, without a password**: the address 0.0.0.0 is written into Bagua, and no variable changes it.
    BAGUA_SERVICE_PORT names its port, which a firewall should close.

    Args:
        algorithm: a name ("gradient_allreduce", "bytegrad", "decentralized", "low_precision_decentralized", "async",
            "qadam"), or one with options, such as `Decentralized(peer_selection_mode="shift_one")`.
        flatten: let what a bucket sends lie side by side in memory; "async" needs it.
        autotune: let Bagua's service try sizes of buckets while training; as BAGUA_AUTOTUNE says when None, and not at
            all where that is not set.
        start_method: how processes come into being when nobody has made them: "script" runs this script again in each,
            "spawn" and "fork" start them from this one.
        components: see `torchrelay.strategies.ParallelStrategy`.

    Raises:
        ConfigurationError: no such algorithm or start method, options that contradict each other.
    """

    capabilities: ClassVar[Capabilities] = CAPABILITIES["gradient_allreduce"]

    def __init__(
        self,
        algorithm: str | Algorithm = "gradient_allreduce",
        *,
        flatten: bool = True,
        autotune: bool | None = None,
        start_method: StartMethod = "script",
        **components: Any,
    ) -> None:
        super().__init__(**components)
        self.algorithm = algorithm_of(algorithm)
        self.capabilities = self.algorithm.capabilities  # type: ignore[misc]  # of the algorithm, not the class
        if start_method not in get_args(StartMethod):
            raise ConfigurationError(
                f"start_method={start_method!r} must be one of {', '.join(get_args(StartMethod))}"
            )
        if isinstance(self.algorithm, AsyncAverage) and not flatten:
            raise ConfigurationError(
                "flatten=False: 'async' averages weights that lie side by side; leave it out"
            )
        if autotune is not None and components.get("collectives") is not None:
            raise ConfigurationError(
                "autotune and collectives are both given, and autotune is for those that the strategy makes itself; "
                "give collectives=BaguaCollectives(autotune=...)"
            )
        self.flatten = flatten
        self.autotune = autotune
        self.start_method = start_method
        self._forget()

    def _forget(self) -> None:
        self._dispatcher: StepDispatcher | None = None
        self._steps_before: list[tuple[Optimizer, Any]] = []
        self._taking_part: TakingPart | None = None
        self._stale = self._resumed = self._failed = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        empty: dict[str, Any] = {"_dispatcher": None, "_steps_before": [], "_taking_part": None}
        flags = dict.fromkeys(("_stale", "_resumed", "_failed"), False)
        return {**super().__getstate__(), **empty, **flags}

    # --- what it is composed of -------------------------------------------------------------------------

    def default_collectives(self) -> Collectives:
        """Bagua's."""
        return BaguaCollectives(self.autotune)

    def default_launcher(self) -> Launcher | None:
        """On this machine the strategy's own; none where a cluster, or Bagua's launcher, makes processes."""
        environment = self.cluster_environment
        if not isinstance(environment, LocalEnvironment):
            return None
        if self.start_method == "script":
            return ScriptLauncher(environment, self.processes_per_node)
        return MultiProcessingLauncher(environment, self.processes_per_node, self.start_method)

    def refusals(self, needs: Needs) -> list[str]:
        """No processor, no Bagua that is not for this Python and CUDA, nothing that the algorithm cannot do."""
        reasons = super().refusals(needs)
        if self.accelerator.name not in ACCELERATORS:
            return [*reasons, f"accelerator={self.accelerator.name!r}: {NOT_THE_CPU}"]
        found = vendor.examined()
        if found is not None:
            reasons.append(found)
        reasons += self._misplaced()
        collectives = self.collectives
        tuned = isinstance(collectives, BaguaCollectives) and collectives.tuned
        if tuned and self.algorithm.averages_weights:
            reasons.append(
                "autotune=True: every 100 steps Bagua makes its buckets anew, and with them the copies of weights that "
                f"{self.algorithm.name!r} keeps; leave it out, and BAGUA_AUTOTUNE unset"
            )
        by_hand = needs.capabilities.get(Capability.MANUAL_OPTIMIZATION)
        if by_hand and not getattr(self.algorithm, "average", True):
            reasons.append(
                f"average=False: {by_hand} has manual optimization, in which gradients are averaged; leave it out"
            )
        return [*reasons, *self.algorithm.refusals(needs.plan, self.world_size, self.num_nodes)]

    def _misplaced(self) -> list[str]:
        """Devices in an order that Bagua does not use: it takes the local rank for the index.

        `get_communicator` and `get_backend` in bagua/torch_api/communication.py.
        """
        chosen = self.parallel_devices
        if chosen is None:
            chosen = [self.accelerator.device(index) for index in self.devices]
        if all(device.index == rank for rank, device in enumerate(chosen)):
            return []
        return [
            f"the devices are {', '.join(map(str, chosen))}, and Bagua communicates on those with the local ranks as "
            f"indices, 0 to {len(chosen) - 1}; name others in CUDA_VISIBLE_DEVICES, and take devices={len(chosen)}"
        ]

    # --- process life -----------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Choose the GPU, then meet the others. Collective."""
        super().setup_environment()
        self._failed = False

    def on_exception(self, error: BaseException) -> None:
        """Leave alone what averages in the background, as to end it is a collective, and meet nobody any more."""
        super().on_exception(error)
        self._failed = True
        collectives = self.collectives
        if isinstance(collectives, BaguaCollectives):
            collectives.lose(error)

    # --- communication ----------------------------------------------------------------------------------

    def all_gather(self, tensor: Any, group: None = None, sync_grads: bool = False) -> Any:
        """Collect tensors of equal shape (*s) from all ranks into (world_size, *s). Collective."""
        refused.group("all_gather", group)
        return super().all_gather(tensor, None, sync_grads)

    def reduce(self, tensor: Any, group: None = None, reduce_op: Any = "mean") -> Any:
        """Combine tensors over all ranks by an operation's name, or torch's `ReduceOp`. Collective.

        Args:
            tensor: a tensor, a number, or nested containers of them.
            group: None.
            reduce_op: None, "mean" or "avg" for the mean; "sum", "min", "max", "product"; "band", "bor", "bxor".
        """
        refused.group("reduce", group)
        name = "mean" if reduce_op is None else str(reduce_op).lower().rpartition(".")[2]
        operation: Any = _OPERATIONS.get(name, name)
        return self.collectives.reduce(tensor, operation)

    # --- model and optimizers ---------------------------------------------------------------------------

    def setup(self, module: nn.Module, build: Build | None) -> None:
        """Place the module, build its optimizers, then let Bagua wrap both."""
        self._forget()
        self.adopt(module)
        self.place()
        if build is not None:
            self.build(build)
            self.wrap()

    def check_optimizers(self) -> None:
        """Refuse optimizers that do not go with the algorithm."""
        super().check_optimizers()
        refused.optimizers(self.algorithm, self.optimizers)

    def wrap(self) -> None:
        """Give every rank rank 0's weights, and let Bagua see to gradients or weights from now on. Collective."""
        trained = [each for each in self.module.named_parameters() if each[1].requires_grad]
        if not trained:
            return
        refused.formats(trained)
        self._share_the_rest()
        self._dispatcher = StepDispatcher(self.module)
        self._steps_before = [(each, vars(each).get("step")) for each in self.optimizers]
        self._wrap_again()
        if self._watches_gradients:
            self._taking_part = TakingPart(trained)

    def _wrap_again(self) -> None:
        """Wrap the model as it is now: Bagua keeps copies of weights, and addresses of moments, from when it does."""
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        with _without_state([] if isinstance(self.algorithm, QAdam) else self.optimizers):
            self.model = vendor.wrap(
                dispatcher,
                name_of(self.module),
                self.optimizers,
                vendor.algorithm(self.algorithm.name, self._arguments),
                flatten=self.flatten,
            )
        if self._manual:
            vendor.silence(self.model)
        self._steps.clear()
        self._stale = False

    @property
    def _arguments(self) -> dict[str, Any]:
        arguments = self.algorithm.arguments
        if isinstance(self.algorithm, QAdam):
            arguments["q_adam_optimizer"] = self.optimizers[0]
        return arguments

    @torch.no_grad()
    def _share_the_rest(self) -> None:
        """Give every rank rank 0's buffers and frozen weights, which Bagua does not send. Collective."""
        share_buffers(self.collectives, self.module)
        frozen = {n: p for n, p in self.module.named_parameters() if not p.requires_grad}
        for name, value in (self.collectives.broadcast(frozen) if frozen else {}).items():
            frozen[name].copy_(value)

    def unwrap(self) -> None:
        """Let go of the wrapper, take Bagua's objects off, and give optimizers their own `step` back."""
        running = (
            self._resumed and self._failed
        )  # the thread in the background has parameters in its hands
        if self._dispatcher is not None and self.model is not self.module:
            self._rest()
            vendor.silence(self.model)
        for optimizer, step in self._steps_before:
            vars(optimizer).pop("step", None)
            if step is not None:
                vars(optimizer)["step"] = step
        if self._dispatcher is not None and not running:
            vendor.release(self.module.parameters(), self.optimizers)
        if self._taking_part is not None:
            self._taking_part.close()
        super().unwrap()
        self._forget_wrapper()

    def _forget_wrapper(self) -> None:
        failed = self._failed
        self._forget()
        self._failed = failed
        gc.collect()  # the wrapper is part of a reference cycle

    # --- steps ------------------------------------------------------------------------------------------

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Training wraps anew what a checkpoint has changed; every rank evaluates with rank 0's buffers. Collective."""
        if name == "train":
            return self._training()
        share_buffers(self.collectives, self.module)
        return super().stage(name)

    @contextmanager
    def _training(self) -> Iterator[None]:
        if self._stale:
            self._wrap_again()
        if isinstance(self.algorithm, AsyncAverage) and self._dispatcher is not None:
            vendor.resume(self.model)
            self._resumed = True
        yield
        self._rest()
        if self.algorithm.averages_weights and self._dispatcher is not None:
            average_weights(self.collectives, self.module)

    def _rest(self) -> None:
        """End the averaging in the background, unless a rank may not come to it. Collective."""
        if self._resumed and not self._failed:
            vendor.abort(self.model)
        self._resumed = False

    @property
    def _manual(self) -> bool:
        """Whether the module makes updates itself, so that nobody knows which backward pass comes before one."""
        return not getattr(self.module, "automatic_optimization", True)

    @property
    def _wraps(self) -> bool:
        return self._dispatcher is not None and not self._manual

    @property
    def _watches_gradients(self) -> bool:
        """Whether a gradient that is missing would keep others from being sent."""
        late = self.algorithm.averages_weights and not getattr(self.algorithm, "warmup_steps", 0)
        return self._wraps and not late

    def raw_step(self, name: str) -> Callable[..., Any]:
        """Training goes through the wrapper; evaluation, and manual optimization, through the bare module."""
        if name != "training_step" or not self._wraps:
            return super().raw_step(name)
        model = self.model
        return lambda *args: model(name, *args)

    def accumulating(self) -> AbstractContextManager[Any]:
        """Gradients of a micro-batch that ends no window stay local."""
        # What runs in the background waits for a backward pass that sends, and averaging again changes no average.
        if not self._wraps or isinstance(self.algorithm, AsyncAverage):
            return super().accumulating()
        return self._keeping()

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        watched, self._taking_part = self._taking_part, None
        try:
            with vendor.no_sync(self.model):
                yield
        finally:
            self._taking_part = watched

    def run_backward(self, loss: torch.Tensor) -> None:
        """Compute gradients, which are combined when this returns.

        Raises:
            UnsupportedError: a parameter has no gradient, so that Bagua has not sent its bucket.
        """
        if self._taking_part is None:
            super().run_backward(loss)
            return
        self._taking_part.begin()
        super().run_backward(loss)
        self._taking_part.check()

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        """Average the gradients of manual optimization, of as many backward passes as there were."""
        if self._manual and self._dispatcher is not None:
            average_gradients(self.collectives, optimizer)

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Clear gradients where they are: Bagua has their addresses."""
        optimizer.zero_grad(set_to_none=False)

    # --- state ------------------------------------------------------------------------------------------

    def model_state(self) -> dict[str, Any]:
        """The module's state; the average over ranks where they have weights of their own. Collective."""
        state = super().model_state()
        if self.algorithm.averages_weights and self._dispatcher is not None:
            return averaged_state(self.collectives, self.module, state)
        return state

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Load a state; training begins with it."""
        super().load_model_state(state, strict=strict)
        self._stale = True

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Load a state; training begins with it."""
        super().load_optimizer_state(optimizer, state)
        self._stale = True


@contextmanager
def _without_state(optimizers: list[Optimizer]) -> Iterator[None]:
    """Hide the state of optimizers from Bagua, which would send it by GPU where torch keeps steps on the CPU.

    All ranks have it from the same checkpoint.
    """
    kept = [optimizer.state for optimizer in optimizers]
    for optimizer in optimizers:
        optimizer.state = type(optimizer.state)(dict)
    try:
        yield
    finally:
        for optimizer, state in zip(optimizers, kept, strict=True):
            optimizer.state = state
