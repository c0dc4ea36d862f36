"""What both HPU strategies do: cut graphs in lazy mode, keep state on the CPU, take options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.checkpoint import from_names, to_names
from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.strategies import Build, Clip, Needs, Strategy
from torchrelay.tree import map_tensors
from torchrelay_hpu import compiling, fused, graphs, placing, vendor
from torchrelay_hpu.plugin import FIRST_GENERATION
from torchrelay_hpu.settings import Settings

STATE = "hpu"
"""What a checkpoint has of the devices besides weights and optimizers: the random state of each rank."""


class Marking(Strategy):
    """Cuts the bridge's graphs after each backward pass, each update and each step of evaluation, in lazy mode alone.

    Args:
        compile: compile steps with the bridge's backend, in eager mode; a dict has further arguments of
            `torch.compile`.
        hpu_graphs: names of submodules that are captured into HPU graphs while evaluating, in lazy mode.
        fused_adamw: put the bridge's FusedAdamW in the place of torch.optim.AdamW.
        fused_clip_norm: clip by norm with the bridge's FusedClipNorm.
        components: see `torchrelay.strategies.Strategy`.

    Raises:
        ConfigurationError: an option is of another kind, or compile names a backend.
    """

    def __init__(
        self,
        *,
        compile: bool | dict[str, Any] = False,  # noqa: A002 - torch's word
        hpu_graphs: Sequence[str] = (),
        fused_adamw: bool = False,
        fused_clip_norm: bool = False,
        **components: Any,
    ) -> None:
        super().__init__(**components)
        self.settings = Settings(compile, hpu_graphs, fused_adamw, fused_clip_norm)
        self._lazy = False
        self._clippers: dict[tuple[int, float], Any] = {}
        self._random: list[torch.Tensor] | None = None
        self._mine: nn.Module | None = None
        self._apart = ExitStack()

    def __getstate__(self) -> dict[str, Any]:
        empty: dict[str, Any] = {
            "_clippers": {},
            "_random": None,
            "_mine": None,
            "_apart": ExitStack(),
        }
        return {**super().__getstate__(), **empty}

    # --- what it can do ---------------------------------------------------------------------------------

    def refusals(self, needs: Needs) -> list[str]:
        """No format that the device has not, no option for the other mode."""
        vendor.load()
        reasons = super().refusals(needs) + self.settings.refusals()
        if needs.precision.startswith("16-") and vendor.device_name() == "GAUDI":
            reasons.append(f"precision={needs.precision!r}: {FIRST_GENERATION}")
        if needs.precision == "fp8":
            there, reason = vendor.fp8_available()
            if not there:
                reasons.append(f"precision='fp8': {reason}; take precision='bf16-mixed'")
        return reasons

    def setup_environment(self) -> None:
        """Load the bridge before the device is asked for anything. Collective."""
        vendor.load()
        self._lazy = vendor.lazy()
        # An evaluation reads a checkpoint, and takes up nothing of it.
        self._random = None
        super().setup_environment()

    # --- model and optimizers ---------------------------------------------------------------------------

    def adopt(self, module: nn.Module) -> None:
        """Take over the user's module.

        Raises:
            ConfigurationError: hpu_graphs names a submodule that it has not.
        """
        super().adopt(module)
        self._mine = module
        graphs.layers(module, self.settings.hpu_graphs)
        if self.settings.compiles:
            self._apart.enter_context(compiling.kept_apart(module))

    def place(self) -> None:
        """Move the module, and tie again what was tied: a move may make new parameters."""
        tied = placing.tied(self.module)
        super().place()
        placing.tie(self.module, tied)

    def build(self, build: Build) -> None:
        """Build the optimizers, after the module has moved; the bridge's in the place of torch's where asked for."""
        super().build(build)
        self._clippers.clear()
        if self.settings.fused_adamw:
            for index, optimizer in enumerate(self.optimizers):
                new = fused.fused(optimizer)
                if new is not optimizer:
                    self.swap_optimizer(index, new)

    def teardown(self) -> None:
        """Leave the module usable on the CPU, tied as it was, with optimizers that know its parameters."""
        module = self._mine
        if module is None:
            super().teardown()
            return
        try:
            tied, names = placing.tied(module), self.parameter_names()
            super().teardown()
        finally:
            self._apart.close()
        placing.tie(module, tied)
        for optimizer in self.optimizers:
            placing.follow(optimizer, names, dict(module.named_parameters()))

    # --- steps ------------------------------------------------------------------------------------------

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Evaluation runs graphs, where they are asked for; training goes on from the random state that was loaded."""
        if name == "train":
            if self._random is not None:
                vendor.set_random_state(self._random)
                self._random = None
            return super().stage(name)
        with ExitStack() as stack:
            stack.enter_context(super().stage(name))
            wrapped = graphs.layers(self.module, self.settings.hpu_graphs)
            stack.enter_context(graphs.captured(wrapped))
            return stack.pop_all()

    def grad_off(self) -> AbstractContextManager[Any]:
        """The bridge does not take `torch.inference_mode`."""
        return torch.no_grad()

    def compiled(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A step, compiled where that is asked for."""
        if not self.settings.compiles:
            return step
        made: Callable[..., Any] = torch.compile(step, **self.settings.compile_arguments)
        return made

    def raw_step(self, name: str) -> Callable[..., Any]:
        """The function behind a step."""
        return self.compiled(super().raw_step(name))

    def evaluation_step(
        self, name: str, batch: Any, batch_idx: int, dataloader_idx: int | None = None
    ) -> Any:
        """Run the step, and cut the graph behind it."""
        found = super().evaluation_step(name, batch, batch_idx, dataloader_idx)
        self.mark()
        return found

    def run_backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass, and cut the graph behind it."""
        super().run_backward(loss)
        self.mark()

    def clip_gradients(self, optimizer: Optimizer, clip: Clip) -> None:
        """Clip, by the bridge's operation where that is asked for."""
        if clip.algorithm != "norm" or not self.settings.fused_clip_norm:
            super().clip_gradients(optimizer, clip)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        key = (id(optimizer), clip.value)
        if key not in self._clippers:
            self._clippers[key] = vendor.fused_clip(parameters, clip.value)
        vendor.clip_norm(self._clippers[key], parameters)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        """Update, and cut the graph behind it."""
        found = super().optimizer_step(optimizer, closure)
        self.mark()
        return found

    def mark(self) -> None:
        """Cut the graph here, in lazy mode."""
        if self._lazy:
            vendor.mark_step()

    # --- state ------------------------------------------------------------------------------------------

    def model_state(self) -> dict[str, Any]:
        """The weights, on the CPU."""
        found: dict[str, Any] = map_tensors(super().model_state(), _to_cpu)
        return found

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state on the CPU, in the form of torch's."""
        state = optimizer.state_dict()
        if vendor.is_fused_adamw(optimizer):
            state = fused.to_torch(state)
        named = to_names(optimizer, self.parameter_names(), state)
        found: dict[str, Any] = map_tensors(named, _to_cpu)
        return found

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Take up a state of torch's form."""
        numbered = from_names(optimizer, state, self.parameter_names())
        if vendor.is_fused_adamw(optimizer):
            numbered = fused.from_torch(numbered)
        optimizer.load_state_dict(numbered)

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Write a checkpoint on the CPU, with each rank's random state. Collective."""
        states = self.collectives.gather_objects(map_tensors(vendor.random_state(), _to_cpu))
        whole = {**map_tensors(dict(checkpoint), _to_cpu), STATE: {"rng_states": states}}
        super().save_checkpoint(whole, path)

    def load_checkpoint(self, path: Path, *, weights_only: bool = True) -> dict[str, Any]:
        """Read a checkpoint; a run of as many ranks goes on from their random states. Collective."""
        found = super().load_checkpoint(path, weights_only=weights_only)
        states = (found.get(STATE) or {}).get("rng_states") or []
        self._random = states[self.global_rank] if len(states) == self.world_size else None
        return found


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu() if tensor.device.type != "cpu" else tensor
