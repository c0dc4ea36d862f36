"""DDPFullyShardedStrategy: parameters, gradients and the optimizer's state are divided between ranks."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.errors import CheckpointError, ConfigurationError
from torchrelay.plugin import Capabilities
from torchrelay.precision import Precision
from torchrelay.strategies import (
    Build,
    Clip,
    Needs,
    ProcessGroupStrategy,
    StepDispatcher,
    share_buffers,
)
from torchrelay_fairscale import flat_optimizer, units, vendor
from torchrelay_fairscale.config import COMPUTE_DTYPES, FullyShardedConfig
from torchrelay_fairscale.plugin import FULLY_SHARDED, NEEDS_STREAMS, SYNC_BATCHNORM_NEEDS_GPUS
from torchrelay_fairscale.precision import FullyShardedPrecision

_OUTER = "module."
"""What the outermost unit, which holds a `StepDispatcher`, puts before the user's names."""


class DDPFullyShardedStrategy(ProcessGroupStrategy):
    """One process a device; each holds a part of every parameter, and gathers the rest around its use.

    Args:
        config: how the model is cut and sharded.
        options: those of `ProcessGroupStrategy`.
    """

    capabilities: ClassVar[Capabilities] = FULLY_SHARDED

    runs_on: ClassVar[tuple[str, ...]] = ("cuda",)
    """Accelerators that have what FairScale asks of a device."""

    def __init__(self, config: FullyShardedConfig | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.config = config or FullyShardedConfig()
        self._groups: list[flat_optimizer.Groups] = []
        self._whole: dict[str, torch.Tensor] | None = None
        self._views: list[tuple[nn.Module, str]] = []
        self._shards: list[nn.Parameter] = []
        self._fits = False

    # --- what it can do ---------------------------------------------------------------------------------

    def refusals(self, needs: Needs) -> list[str]:
        """No device without streams, and nothing that contradicts the Trainer."""
        reasons = super().refusals(needs)
        if self.accelerator.name not in self.runs_on:
            reasons.append(f"accelerator={self.accelerator.name!r}: {NEEDS_STREAMS}")
        if self.sync_batchnorm and self.accelerator.name == "cpu":
            reasons.append(f"sync_batchnorm=True: {SYNC_BATCHNORM_NEEDS_GPUS}")
        return [*reasons, *self.config.contradictions(needs.precision)]

    def adapt_precision(self, precision: Precision) -> Precision:
        """Mixed precisions gather weights in 16 bits; others stay, or are refused by name."""
        if precision.name not in COMPUTE_DTYPES or isinstance(precision, FullyShardedPrecision):
            return precision
        return FullyShardedPrecision(precision.name)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that go to FairScale's wrapper."""
        chosen = self.config.sharding(self.precision_plugin.name)
        if chosen["flatten_parameters"] is None:
            chosen["flatten_parameters"] = flat_optimizer.alike(self.optimizers)
        for name in ("compute_dtype", "buffer_dtype"):
            chosen[name] = chosen[name] and getattr(torch, chosen[name])
        return {
            **chosen,
            "compute_device": self.root_device,
            "state_dict_device": torch.device("cpu"),
            "state_dict_on_rank_0_only": True,
        }

    # --- process life -----------------------------------------------------------------------------------

    def init_context(self) -> AbstractContextManager[Any]:
        """`wrap` shards a layer as soon as it is made."""
        return vendor.wrapping_context(self.settings)

    def unwrap(self) -> None:
        """Give the module back with ordinary parameters."""
        outer = self._model
        super().unwrap()
        if outer is not None:
            vendor.disconnect_units(outer)
            units.unshard(self.module, outer, self._whole)
            for name, buffer in self.module.named_buffers():
                if self._whole is not None and name in self._whole:
                    buffer.data = self._whole[name]
            vendor.forget_groups()
        self._whole, self._views, self._shards = None, [], []
        del outer
        # A process group that something still refers to stays connected, and a rank that waits for this one waits on.
        gc.collect()

    # --- model and optimizers ---------------------------------------------------------------------------

    def setup(self, module: nn.Module, build: Build | None) -> None:
        """The optimizers are built of the user's parameters, and then given the shards of these."""
        self.adopt(module)
        self._fits, self._whole, self._groups = build is not None, None, []
        if self.sync_batchnorm:
            convert: Callable[..., nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
            self.adopt(convert(self.module))
        self.place()
        if build is not None:
            self.build(build)
        before = [self._first_state(optimizer) for optimizer in self.optimizers]
        self.wrap()
        for optimizer, groups, state in zip(self.optimizers, self._groups, before, strict=True):
            flat_optimizer.take_shards(optimizer, groups, self._places, state)

    def place(self) -> None:
        """Move the model, unless its weights are to stay in CPU memory."""
        if not self.config.cpu_offload:
            super().place()

    def build(self, build: Build) -> None:
        """Build the optimizers, and remember which parameters they have."""
        super().build(build)
        made = units.places(self.module)
        self._groups = [
            flat_optimizer.group_names(each, self.module, made) for each in self.optimizers
        ]

    def _first_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """State that an optimizer is made with, by name."""
        names: dict[Any, str] = {p: name for name, p in self.module.named_parameters()}
        return {names[p]: entry for p, entry in optimizer.state.items() if p in names}

    def wrap(self) -> None:
        """Share rank 0's weights, cut the model into units, and wrap the rest of it as the last one.

        Raises:
            ConfigurationError: a parameter that has several places is cut apart.
            UnsupportedError: parameters of a unit cannot be flattened together.
        """
        made = any(map(units.is_unit, self.module.modules()))
        if not made:
            self._share_weights()
        tied = units.tied_names(self.module)
        if not made:
            config = self.config
            vendor.shard_children(self.module, self.settings, config.min_num_params, config.policy)
        self.model = vendor.shard(StepDispatcher(self.module), self._outer_settings())
        apart = units.cut_apart(self.model, tied, self._places)
        if apart:
            raise ConfigurationError(
                f"{' and '.join(apart)} is used in several places, and FairScale would shard it in one unit alone; "
                "keep them in one unit by a larger min_num_params, or by a policy"
            )
        self._views = units.views(self.model)
        self._shards = [place.parameter for place in self._places]
        units.hide(self._views)

    def _outer_settings(self) -> dict[str, Any]:
        settings = self.settings
        inner = {place.parameter for place in units.places(self.module)}
        if not any(parameter not in inner for parameter in self.module.parameters()):
            # FairScale asks a unit that offloads for its first parameter. It still waits for the others' gradients.
            offloads = settings["move_params_to_cpu"]
            settings["move_grads_to_cpu"] = settings["move_grads_to_cpu"] or offloads
            settings["move_params_to_cpu"] = False
        return settings

    @torch.no_grad()
    def _share_weights(self) -> None:
        state = {n: v for n, v in self.module.state_dict().items() if isinstance(v, torch.Tensor)}
        for name, value in self.collectives.broadcast(state).items():
            state[name].copy_(value)

    @property
    def _places(self) -> list[units.Place]:
        return units.places(self.model, _OUTER)

    # --- steps ------------------------------------------------------------------------------------------

    @contextmanager
    def _bringing_back(self) -> Iterator[None]:
        yield
        # Not where an exception leaves: the other ranks may be anywhere.
        if self.config.whole_after_fit:
            self._whole = self.collectives.broadcast(self._gathered())

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Every rank evaluates with rank 0's buffers; at the end weights come back from where they were divided to."""
        if name != "train":
            share_buffers(self.collectives, self.module)
        outermost = name == "train" or not self._fits
        return self._bringing_back() if outermost else super().stage(name)

    def grad_off(self) -> AbstractContextManager[Any]:
        """What is gathered under inference mode could not be trained again."""
        return torch.no_grad()

    def raw_step(self, name: str) -> Callable[..., Any]:
        """Every step goes through the wrapper, which gathers the weights."""
        model, views = self.model, self._views
        if name == "training_step":
            return lambda *args, **kwargs: model(name, *args, **kwargs)

        def evaluate(*args: Any, **kwargs: Any) -> Any:
            output = model(name, *args, **kwargs)
            units.hide(views)
            return output

        return evaluate

    def run_backward(self, loss: torch.Tensor) -> None:
        """After it, weights are there no more."""
        super().run_backward(loss)
        units.forget_hooks(self._shards)
        units.hide(self._views)

    def accumulating(self) -> AbstractContextManager[Any]:
        """Gradients of a micro-batch that ends no window stay local, and whole."""
        no_sync: AbstractContextManager[Any] = self.model.no_sync()  # type: ignore[operator]
        return no_sync

    def clip_gradients(self, optimizer: Optimizer, clip: Clip) -> None:
        """By the norm over the shards of all ranks; by value each rank its own."""
        if clip.algorithm == "value":
            super().clip_gradients(optimizer, clip)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        own = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        squared = own.to(self.root_device, torch.float32) ** 2
        total = self.collectives.reduce(squared, "sum").sqrt()
        nn.utils.clip_grads_with_norm_(parameters, clip.value, total)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        """Run the closure, and let each rank update its shards."""
        result = closure()
        self.precision_plugin.update(optimizer)
        return result

    # --- state ------------------------------------------------------------------------------------------

    def _gathered(self) -> dict[str, Any]:
        units.settle(self.model)
        state = self.model.state_dict()
        units.hide(self._views)
        return {name.removeprefix(_OUTER): value for name, value in state.items()}

    def model_state(self) -> dict[str, Any]:
        """Whole weights in fp32, by name."""
        # Of a rank that does not come, the hang watchdog learns by a collective first.
        self.collectives.barrier("model_state")
        return self._gathered()

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Each rank takes its part.

        Raises:
            CheckpointError: it is another model's; the message names the keys.
        """
        units.settle(self.model)
        try:
            self.model.load_state_dict({_OUTER + n: v for n, v in state.items()}, strict=strict)
        except RuntimeError as error:
            told = units.without_wrappers(" ".join(str(error).split())).replace(f'"{_OUTER}', '"')
            raise CheckpointError(
                f"the checkpoint does not fit {type(self.module).__name__}: {told}; load it into the model that it was "
                "saved from, or what fits of it with strict=False"
            ) from error
        finally:
            units.hide(self._views)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole moments, by parameter name."""
        self.collectives.barrier("optimizer_state")
        return flat_optimizer.full_state(
            optimizer, self._groups_of(optimizer), self._places, self._gather
        )

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Each rank takes its part."""
        flat_optimizer.load_full_state(optimizer, self._groups_of(optimizer), self._places, state)

    def _groups_of(self, optimizer: Optimizer) -> flat_optimizer.Groups:
        return self._groups[self.optimizers.index(optimizer)]

    def _gather(self, part: torch.Tensor) -> torch.Tensor:
        whole: torch.Tensor = self.collectives.all_gather(part.to(self.root_device))
        return whole.reshape(-1).cpu()
