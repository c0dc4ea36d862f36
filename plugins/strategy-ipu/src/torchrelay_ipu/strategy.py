"""IPUStrategy: forward, backward and update compiled into one call of the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.checkpoint import from_names, to_names
from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.collectives import Collectives, NoCollectives
from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.plugin import Capabilities
from torchrelay.strategies import Build, Needs, Plan, Strategy
from torchrelay_ipu import optimizers, vendor
from torchrelay_ipu.batches import (
    Call,
    Combined,
    Forms,
    Window,
    check_whole,
    put_together,
)
from torchrelay_ipu.plugin import CAPABILITIES
from torchrelay_ipu.probe import EMULATOR
from torchrelay_ipu.programs import Program, Programs
from torchrelay_ipu.settings import Settings
from torchrelay_ipu.step import TracedStep

STATE = "ipu"
"""What a checkpoint has of the device besides weights and optimizers: its random state."""


class IPUStrategy(Strategy):
    """One process that drives all IPUs; each batch is divided between replicas of the model.

    Args:
        device_iterations: updates that one call of the device makes; as many batches are given to it at a time.
        training_opts: `poptorch.Options` for training, of which a copy is used; without, every device has a replica.
        inference_opts: the same for validation, test and prediction.
        executable_cache: a folder where PopTorch keeps what it has compiled.
        autoreport: let Poplar write the reports that PopVision shows.
        autoreport_dir: where; the working folder when None.
        components: see `torchrelay.strategies.Strategy`.

    Raises:
        ConfigurationError: options that contradict each other.
    """

    capabilities: ClassVar[Capabilities] = CAPABILITIES
    process_per_device: ClassVar[bool] = False

    def __init__(
        self,
        *,
        device_iterations: int | None = None,
        training_opts: Any = None,
        inference_opts: Any = None,
        executable_cache: str | None = None,
        autoreport: bool = False,
        autoreport_dir: str | None = None,
        **components: Any,
    ) -> None:
        super().__init__(**components)
        self.settings = Settings(
            device_iterations,
            training_opts,
            inference_opts,
            executable_cache,
            autoreport,
            autoreport_dir,
        )
        self.asked = Plan()
        self.programs = Programs()
        self._forms: dict[str, Forms] = {}
        self._handed: list[set[str]] = []

    # --- what it is composed of -------------------------------------------------------------------------

    @property
    def root_device(self) -> torch.device:
        """The host: PopTorch moves weights and batches itself."""
        return torch.device("cpu")

    def default_collectives(self) -> Collectives:
        """One process has nobody to communicate with."""
        return NoCollectives()

    def refusals(self, needs: Needs) -> list[str]:
        """No options that contradict each other, no IPUs that are not there."""
        devices = len(self.devices)
        reasons = super().refusals(needs) + self.settings.refusals(devices, needs.plan.accumulate)
        if not vendor.use_emulator() and not vendor.available(devices):
            reasons.append(
                f"devices={devices} asks for IPUs that PopTorch does not find; take fewer, or {EMULATOR}=1 for its "
                "emulator"
            )
        return reasons

    def negotiate(self, plan: Plan) -> Plan:
        """Accumulation, the mean over it, clipping and several updates are the device's."""
        self.asked = plan
        return Plan(updates=self.settings.iterations)

    @property
    def together(self) -> int:
        """Training batches of the user's in one call."""
        return self.asked.accumulate * self.settings.iterations

    # --- model and optimizers ---------------------------------------------------------------------------

    def adopt(self, module: nn.Module) -> None:
        """Take over the user's module; nothing is compiled yet, and what was is given up."""
        self.programs.close()
        self.programs.random = None
        self._forms.clear()
        self._handed.clear()
        super().adopt(module)

    def setup(self, module: nn.Module, build: Build | None) -> None:
        """Place and build; steps are compiled at their first batch, whose shapes they take."""
        self.adopt(module)
        self.place()
        if build is not None:
            self.build(build)

    def build(self, build: Build) -> None:
        """Build the optimizer, and put PopTorch's in its place.

        Raises:
            ConfigurationError: there is none, for which PopTorch would take one of its own.
            UnsupportedError: PopTorch has none like it.
        """
        super().build(build)
        if not self.optimizers:
            raise ConfigurationError(
                "configure_optimizers returned no optimizer, and PopTorch would train with one of its own; return one, "
                "with learning rate 0 if nothing is to change"
            )
        clip = self.asked.clip
        for index, optimizer in enumerate(self.optimizers):
            new = optimizers.converted(optimizer, None if clip is None else clip.value)
            if new is not optimizer:
                self.swap_optimizer(index, new)

    def unwrap(self) -> None:
        """Give the device back."""
        try:
            self.programs.close()
        finally:
            super().unwrap()

    def teardown(self) -> None:
        """Part from everything, also where the device is lost and cannot be given back."""
        try:
            self.programs.close()
        finally:
            super().teardown()

    # --- data -------------------------------------------------------------------------------------------

    def process_dataloader(self, loader: Iterable[Any], stage: str) -> Iterable[Any]:
        """Training batches by windows, where a call takes several.

        Raises:
            ConfigurationError: several updates are made in a call, and the batches make no whole ones.
        """
        if stage != "train" or self.together == 1:
            return loader
        whole = self.settings.iterations > 1
        combined = Combined(loader, self.together, whole=whole)
        try:
            number = len(combined.loader)
        except (TypeError, NotImplementedError):
            return combined
        if whole:
            check_whole(number, self.together)
        return combined

    def batch_to_device(self, batch: Any) -> Any:
        """Convert the format; PopTorch moves it."""
        precision = self.precision_plugin
        return precision.convert_batch(batch) if precision.converts_batches else batch

    # --- steps ------------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage begins and ends with a free device, and with current weights on the host."""
        self.programs.release()
        try:
            yield
        finally:
            self.programs.release()

    def grad_off(self) -> AbstractContextManager[Any]:
        """What is compiled in inference mode could not be trained again."""
        return torch.no_grad()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Run forward, backward and update of a window."""
        window = batch if isinstance(batch, Window) else [batch]
        replicas = self.settings.replicas(len(self.devices), training=True)
        call = put_together(window, replicas)
        self._check("training_step", call, batch_idx)
        program = self.programs.training
        if program is None or program.form != call.form:
            self.programs.retire()
            program = self._trained(call, replicas)
            self.programs.train(program)
        found = self._run(program, call)
        if self._handed:
            optimizers.check_taken(self.optimizers[0], self._handed)
            self._handed = []
        return found

    def evaluation_step(
        self, name: str, batch: Any, batch_idx: int, dataloader_idx: int | None = None
    ) -> Any:
        """Run a compiled validation, test or prediction step."""
        replicas = self.settings.replicas(len(self.devices), training=False)
        call = put_together([batch], replicas * self.settings.evaluation_iterations)
        self._check(f"{name} of data loader {dataloader_idx or 0}", call, batch_idx)
        key = (name, dataloader_idx, call.form)
        program = self.programs.inference.get(key)
        if program is None:
            program = self._evaluated(name, dataloader_idx, call, replicas)
            self.programs.inference[key] = program
        return self._run(program, call)

    def _check(self, place: str, call: Call, batch_idx: int) -> None:
        self._forms.setdefault(place, Forms(place)).check(call.form, batch_idx)

    def _run(self, program: Program, call: Call) -> Any:
        self.programs.activate(program, call)
        outputs = program.run(call)
        module: Any = self.module
        for name, value, options in program.logged(outputs):
            module.log(name, value, **{"batch_size": call.rows, **options})
        return program.result(outputs)

    def _trained(self, call: Call, replicas: int) -> Program:
        number = call.form.number
        iterations = self.settings.iterations if number == self.together else 1
        accumulation = number // iterations
        options = self.settings.options(
            iterations=iterations, replicas=replicas, accumulation=accumulation, training=True
        )
        # PopTorch takes the mean of a short window; the plan divides by a whole one.
        scale = accumulation / self.asked.accumulate
        step = TracedStep(self.module, self._step("training_step"), call.rebuild, scale)
        (optimizer,) = self.optimizers
        model = vendor.training_model(step, options, optimizer)
        return Program(
            step, model, call.form, number * replicas, optimizer, optimizers.settings(optimizer)
        )

    def _evaluated(
        self, name: str, dataloader_idx: int | None, call: Call, replicas: int
    ) -> Program:
        iterations = self.settings.evaluation_iterations
        options = self.settings.options(
            iterations=iterations, replicas=replicas, accumulation=1, training=False
        )
        step = TracedStep(self.module, self._step(name, dataloader_idx), call.rebuild)
        model = vendor.inference_model(step, options)
        return Program(step, model, call.form, iterations * replicas)

    def _step(self, name: str, dataloader_idx: int | None = None) -> Callable[..., Any]:
        step = self.step_function(name)
        if dataloader_idx is None:
            return step
        return lambda batch, batch_idx: step(batch, batch_idx, dataloader_idx=dataloader_idx)

    # --- updates, which the device has made --------------------------------------------------------------

    def accumulating(self) -> AbstractContextManager[Any]:
        """The loop comes here only if somebody has changed the windows, which are compiled in.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "accumulate_grad_batches has changed while training, and a step on an IPU has its windows compiled in; "
            "leave out GradientAccumulationScheduler and give accumulate_grad_batches to the Trainer"
        )

    def backward(self, loss: torch.Tensor) -> None:
        """Let the module's own `backward` hear of the loss, which has no graph behind it."""
        self.backward_through(loss.detach().requires_grad_())

    def finalize_gradients(self, optimizer: Optimizer) -> None:
        """Nothing: gradients stay on the device."""

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Nothing: gradients stay on the device."""

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        """Run the closure, in which the device makes the update."""
        return closure()

    # --- state ------------------------------------------------------------------------------------------

    def model_state(self) -> dict[str, Any]:
        """The weights, copied from the device first."""
        self.programs.fetch()
        return {
            name: value.detach().clone().as_subclass(torch.Tensor)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in super().model_state().items()
        }

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Load the host's weights, and renew the device's."""
        super().load_model_state(state, strict=strict)
        self.programs.renew()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The device's state, by parameter name."""
        names = self.parameter_names()
        # PopTorch's own has the device's names in it.
        numbered = Optimizer.state_dict(optimizer)
        numbered["state"] = optimizers.from_device(optimizer, names)
        return to_names(optimizer, names, numbered)

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Take up a state; the next compiled step brings it to the device."""
        self.programs.retire()
        names = self.parameter_names()
        numbered = from_names(optimizer, state, names)
        for group, saved in zip(optimizer.param_groups, numbered["param_groups"], strict=True):
            group.update({k: v for k, v in saved.items() if k in group and k != "params"})
        self._handed = optimizers.to_device(optimizer, numbered["state"], names)

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Write a checkpoint, with the device's random state."""
        state = self.programs.random_state()
        more = {} if state is None else {STATE: {"rng_state": state}}
        super().save_checkpoint({**checkpoint, **more}, path)

    def load_checkpoint(self, path: Path, *, weights_only: bool = True) -> dict[str, Any]:
        """Read a checkpoint; training goes on from its random state, if it was made on an IPU."""
        found = super().load_checkpoint(path, weights_only=weights_only)
        self.programs.random = (found.get(STATE) or {}).get("rng_state")
        return found
