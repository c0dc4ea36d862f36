"""HorovodStrategy: each rank has the whole model, and Horovod averages gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, get_args

import torch
from torch.optim import Optimizer

from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.environments import LocalEnvironment
from torchrelay.environments.program import is_interactive
from torchrelay.errors import ConfigurationError
from torchrelay.launchers import Launcher, MultiProcessingLauncher, ScriptLauncher
from torchrelay.plugin import Capabilities
from torchrelay.strategies import Build, Needs, ParallelStrategy, share_buffers
from torchrelay_horovod import learning_rate, refused, vendor
from torchrelay_horovod.collectives import HorovodCollectives
from torchrelay_horovod.commits import COMMIT
from torchrelay_horovod.elastic import Commits, ElasticLauncher
from torchrelay_horovod.environment import HorovodEnvironment
from torchrelay_horovod.plugin import CAPABILITIES
from torchrelay_horovod.reducer import GradientReducer

StartMethod = Literal["auto", "script", "spawn", "fork"]
Operation = Literal["average", "adasum"]


class HorovodStrategy(ParallelStrategy):
    """One process a device, each with the whole model; Horovod averages gradients while backward runs.

    Args:
        compression: "fp16" sends gradients in 16 bits, which rounds them; "none" as they are.
        gradient_predivide_factor: by which gradients are divided before they are summed; the rest of the division
            by the number of ranks comes after.
        op: "average"; "adasum" is refused.
        scale_lr: multiply every learning rate of configure_optimizers by the number of ranks, and log it.
        process_sets: groups of ranks that are to communicate among themselves, for the argument `group` of
            `all_gather` and `reduce`.
        start_method: how processes come into being when nobody has made them: "script" runs this script again in
            each, "fork" and "spawn" start them from this one; "auto" forks in a notebook, and elsewhere is "script".
        components: see `torchrelay.strategies.ParallelStrategy`.

    Raises:
        ConfigurationError: a value that none of them has, or process sets beside collectives.
    """

    capabilities: ClassVar[Capabilities] = CAPABILITIES

    def __init__(
        self,
        *,
        compression: str = "none",
        gradient_predivide_factor: float = 1.0,
        op: Operation = "average",
        scale_lr: bool = False,
        process_sets: Sequence[Sequence[int]] = (),
        start_method: StartMethod = "auto",
        **components: Any,
    ) -> None:
        super().__init__(**components)
        _one_of("compression", compression, vendor.COMPRESSIONS)
        _one_of("op", op, get_args(Operation))
        _one_of("start_method", start_method, get_args(StartMethod))
        if not gradient_predivide_factor > 0:
            raise ConfigurationError(
                f"gradient_predivide_factor={gradient_predivide_factor!r} must be a number above 0"
            )
        if process_sets and components.get("collectives") is not None:
            raise ConfigurationError(
                "process_sets and collectives are both given, and process_sets is for those that the strategy makes "
                "itself; give collectives=HorovodCollectives(process_sets)"
            )
        self.compression = compression
        self.gradient_predivide_factor = float(gradient_predivide_factor)
        self.op = op
        self.scale_lr = scale_lr
        self.process_sets = tuple(process_sets)
        self.start_method = start_method
        self._reducer: GradientReducer | None = None
        self._window = _Window()
        self.commits = Commits()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {**super().__getstate__(), "_reducer": None}

    # --- what it is composed of -------------------------------------------------------------------------

    def default_collectives(self) -> HorovodCollectives:
        """Horovod's."""
        return HorovodCollectives(self.process_sets)

    def default_launcher(self) -> Launcher | None:
        """On this machine the strategy's own; in an elastic job one that begins again when ranks have changed."""
        environment = self.cluster_environment
        if isinstance(environment, HorovodEnvironment) and environment.elastic:
            return ElasticLauncher(self.commits)
        if not isinstance(environment, LocalEnvironment):
            return None
        method = self.start_method
        if method == "auto":
            method = "fork" if is_interactive() else "script"
        if method == "script":
            return ScriptLauncher(environment, self.processes_per_node)
        return MultiProcessingLauncher(environment, self.processes_per_node, method)

    def refusals(self, needs: Needs) -> list[str]:
        """No processes that do not know of each other, no Adasum."""
        reasons = super().refusals(needs)
        found = vendor.examined()
        if found is not None and vendor.version() is None:
            return [*reasons, found]
        where = (self.cluster_environment, self.processes_per_node, self.num_nodes)
        reasons += refused.processes(*where, self.start_method)
        if self.op == "adasum":
            reasons.append(refused.adasum())
        return reasons

    # --- ranks ------------------------------------------------------------------------------------------

    @property
    def world_size(self) -> int:
        """Number of processes: as many as there are, which in an elastic job changes."""
        environment = self.cluster_environment
        return environment.world_size if environment.creates_processes else super().world_size

    @property
    def talk(self) -> HorovodCollectives:
        """The collectives, which have to be Horovod's.

        Raises:
            ConfigurationError: the user gave others.
        """
        collectives = self.collectives
        if not isinstance(collectives, HorovodCollectives):
            raise ConfigurationError(
                f"HorovodStrategy communicates by HorovodCollectives, and got {type(collectives).__name__}; leave "
                "collectives out"
            )
        return collectives

    def all_gather(
        self, tensor: Any, group: Sequence[int] | None = None, sync_grads: bool = False
    ) -> Any:
        """Collect tensors of equal shape (*s) from all ranks, or those of a process set. Collective."""
        talk = self.collectives if group is None else self.talk.within(group)
        return talk.all_gather(tensor, sync_grads)

    def reduce(
        self, tensor: Any, group: Sequence[int] | None = None, reduce_op: str | None = "mean"
    ) -> Any:
        """Combine tensors over all ranks, or those of a process set. Collective."""
        if group is None:
            return super().reduce(tensor, None, reduce_op)
        operation: Any = str(reduce_op or "mean").lower()
        return self.talk.within(group).reduce(tensor, "mean" if operation == "avg" else operation)

    # --- model and optimizers ---------------------------------------------------------------------------

    def place(self) -> None:
        """Move the model, and give every rank rank 0's weights and buffers."""
        super().place()
        self.talk.share(
            {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        )

    def build(self, build: Build) -> None:
        """Build the optimizers, which stay what they are, and see to their gradients."""
        super().build(build)
        if self.scale_lr:
            size = self.world_size
            learning_rate.scale(self.optimizers, self.schedulers, size, tell=self.is_global_zero)
        self._reducer = GradientReducer(
            self.talk,
            self.parameter_names(),
            compression=self.compression,
            predivide=self.gradient_predivide_factor,
        )
        for optimizer in self.optimizers:
            self._reducer.watch(optimizer)

    def unwrap(self) -> None:
        """Take hooks off the parameters."""
        super().unwrap()
        if self._reducer is not None:
            self._reducer.close()
            self._reducer = None

    # --- steps ------------------------------------------------------------------------------------------

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Every rank evaluates with rank 0's buffers."""
        if name != "train":
            share_buffers(self.collectives, self.module)
        return super().stage(name)

    @property
    def _manual(self) -> bool:
        """Whether the module makes updates itself, so that nobody knows which backward pass comes before one."""
        return not getattr(self.module, "automatic_optimization", True)

    def accumulating(self) -> AbstractContextManager[Any]:
        """Gradients of a micro-batch that ends no window stay local."""
        return self._window

    def run_backward(self, loss: torch.Tensor) -> None:
        """Compute gradients, and average them at the end of a window: none is under way when this returns.

        So whatever reads, clips, replaces or clears gradients afterwards does it as in one process.
        """
        reducer = self._reducer
        if reducer is None or not self.optimizers or not self._window.ends or self._manual:
            super().run_backward(loss)
            return
        reducer.sending = True
        try:
            super().run_backward(loss)
        finally:
            reducer.sending = False
        for optimizer in self.optimizers:
            reducer.average(optimizer)

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        """Average the gradients of manual optimization, of as many backward passes as there were."""
        if self._manual and self._reducer is not None:
            self._reducer.average(optimizer)

    # --- state ------------------------------------------------------------------------------------------

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Load rank 0's state, sent as an object: Horovod's own way makes an update with gradients of zero."""
        super().load_optimizer_state(optimizer, self.collectives.broadcast(state))

    @property
    def recovers_from(self) -> str | None:
        """The last commit, in an elastic job whose ranks have changed."""
        return COMMIT if self.commits.recovering else None

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Write a checkpoint; a commit every rank keeps in its own memory."""
        if str(path) == COMMIT:
            self.commits.keep(checkpoint)
        else:
            super().save_checkpoint(checkpoint, path)

    def load_checkpoint(self, path: Path, *, weights_only: bool = True) -> dict[str, Any]:
        """Read a checkpoint; a commit is rank 0's, which has been there longest."""
        if str(path) != COMMIT:
            return super().load_checkpoint(path, weights_only=weights_only)
        self.commits.last = self.collectives.broadcast(self.commits.last)
        return self.commits.copy(self.world_size)


class _Window:
    """Whether a micro-batch ends its window; not while the context lasts that this is."""

    def __init__(self) -> None:
        self.ends = True

    def __enter__(self) -> None:
        self.ends = False

    def __exit__(self, *_: object) -> None:
        self.ends = True


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigurationError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}")
