"""DeepSpeedStrategy: the training step, backward and the update go through a DeepSpeed engine."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.optim import Optimizer

from torchrelay.errors import UnsupportedError
from torchrelay.plugin import Capability
from torchrelay.precision import Precision
from torchrelay.strategies import Build, Needs, Plan, share_buffers
from torchrelay_deepspeed import sharded, vendor
from torchrelay_deepspeed.caller import Caller
from torchrelay_deepspeed.config import DeepSpeedConfig
from torchrelay_deepspeed.engine_release import release
from torchrelay_deepspeed.engine_state import EngineState
from torchrelay_deepspeed.environ import ChangedEnviron
from torchrelay_deepspeed.layout import torch_optimizer
from torchrelay_deepspeed.named import check_given_once
from torchrelay_deepspeed.optimizer_state import group_names, undo_first_step
from torchrelay_deepspeed.plugin import (
    CAPABILITIES,
    FP16_NEEDS_HARDWARE,
    SYNC_BATCHNORM_NEEDS_GPUS,
    UPDATES_ALWAYS,
)
from torchrelay_deepspeed.precision import FORMATS, DeepSpeedPrecision, cpu_has_fp16
from torchrelay_deepspeed.refused import refusals
from torchrelay_deepspeed.settled import settle
from torchrelay_deepspeed.swap_folders import SwapFolders
from torchrelay_deepspeed.unused import reduce_unused
from torchrelay_deepspeed.weights import full_weights, is_sharded, keep_changed


class DeepSpeedStrategy(EngineState):
    """One process a device; a DeepSpeed engine averages, clips and updates, and divides state between ranks.

    Args:
        config: a `DeepSpeedConfig`, DeepSpeed's own configuration as a dict, or the path of a JSON file with it; what
            the environment variable TORCHRELAY_DEEPSPEED_CONFIG names, or else stage 2, when None.
        sharded_checkpoints: whether a checkpoint is a folder to which each rank adds its part, as DeepSpeed itself
            writes it, instead of one file of the canonical form, for which rank 0 gathers everything. Weights alone are
            always a file. Either is read, whatever is written.
        whole_after_fit: whether each process has the whole module again when a run is over. False leaves a stage-3
            module that no process has room for without weights: load them from a checkpoint.
        options: those of `ProcessGroupStrategy`.

    Raises:
        ConfigurationError: the configuration cannot be read, or asks for what cannot be.
    """

    def __init__(
        self,
        config: DeepSpeedConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        sharded_checkpoints: bool = False,
        whole_after_fit: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config, sharded_checkpoints=sharded_checkpoints, **options)
        self.capabilities = CAPABILITIES[self.config.stage]  # type: ignore[misc]  # of the stage, not the class
        self.whole_after_fit = whole_after_fit
        self._asked = Plan()
        self._owes_update = False
        self._whole: dict[str, torch.Tensor] | None = None
        self._environ = ChangedEnviron()
        self._connected = False
        self._swap = SwapFolders()

    # --- what it can do ---------------------------------------------------------------------------------

    def refusals(self, needs: Needs) -> list[str]:
        """What DeepSpeed cannot do here, and what its configuration contradicts."""
        reasons = super().refusals(needs)
        if self.sync_batchnorm and self.accelerator.name == "cpu":
            reasons.append(f"sync_batchnorm=True: {SYNC_BATCHNORM_NEEDS_GPUS}")
        if self.sharded_checkpoints and "checkpoint_io" in self.given:
            reasons.append(sharded.OWN_WRITER)
        if self.sharded_checkpoints and self.config.on_nvme:
            reasons.append(sharded.NOT_FROM_NVME)
        if not reasons:
            settle(
                self.config, plan=needs.plan, precision=needs.precision, world_size=self.world_size
            )
        if self.accelerator.name == "cpu" and needs.precision == "16-mixed" and not cpu_has_fp16():
            reasons.append(f"precision='16-mixed': {FP16_NEEDS_HARDWARE}")
        found = refusals(self.config, accelerator=self.accelerator.name, num_nodes=self.num_nodes)
        return [*reasons, *found]

    def adapt_precision(self, precision: Precision) -> Precision:
        """The engine's form of it; one that it has no form of is refused by name."""
        if precision.name not in FORMATS:
            return precision
        if not isinstance(precision, DeepSpeedPrecision):
            precision = DeepSpeedPrecision(precision.name)
        precision.engine = self._engine
        return precision

    def negotiate(self, plan: Plan) -> Plan:
        """Clipping is the engine's; windows, and the division of losses, stay the loop's."""
        self._asked = plan
        return replace(plan, clip=None)

    def require(self, capability: Capability, origin: str) -> None:
        """Gradients at stage 0 are scaled under 16-mixed; a sharded checkpoint has one set of weights."""
        super().require(capability, origin)
        if capability is Capability.WHOLE_WEIGHTS and self.sharded_checkpoints:
            raise UnsupportedError(f"{origin} keeps weights of its own: {sharded.NO_AVERAGES}")
        scaled = self.precision_plugin.name == "16-mixed"
        if capability is Capability.GRADIENTS_VISIBLE and scaled:
            raise UnsupportedError(
                f"{origin} needs {capability.value}; under precision='16-mixed' they are scaled until the update: take "
                "bf16-mixed or 32-true"
            )

    @property
    def stage_of_zero(self) -> int:
        """0, 1, 2 or 3."""
        return self.config.stage

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration that goes to DeepSpeed, with this process's own folders on NVMe."""
        settled = settle(
            self.config,
            plan=self._asked,
            precision=self.precision_plugin.name,
            world_size=self.world_size,
        )
        return self._swap.redirect(settled)

    # --- process life -----------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Meet the others, and let DeepSpeed use the same process group."""
        super().setup_environment()
        self._swap = SwapFolders(tells=self.local_rank == 0)
        environment = self.cluster_environment
        places = {
            "RANK": str(self.global_rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
        }
        backend = getattr(self.collectives, "backend", None)
        self._connected = True
        with self._environ.changing():
            vendor.connect(self.root_device.type, backend, places)

    def init_context(self) -> AbstractContextManager[Any]:
        """At stage 3 each rank keeps its part of a parameter as soon as it is made."""
        if self.stage_of_zero < 3:
            return super().init_context()
        return vendor.sharded_init(self.settings)

    def unwrap(self) -> None:
        """Destroy the engine, and give the module back as it was."""
        engine = self._engine()
        super().unwrap()
        if engine is not None:
            vendor.destroy(engine, torch_optimizer(engine))
        if engine is not None or self._whole is not None:
            release(self.module, self._whole)
            self._whole = None
        del engine
        if self._connected:
            vendor.disconnect()
            self._connected = False
        # A process group that something still refers to stays connected, and a rank that waits for this one waits on.
        gc.collect()

    def teardown(self) -> None:
        """Put the environment back, and the disk."""
        super().teardown()
        self._swap.remove()
        self._environ.restore()

    # --- model ------------------------------------------------------------------------------------------

    def setup(self, module: torch.nn.Module, build: Build | None) -> None:
        """The engine takes the built optimizer; in evaluation it is needed at stage 3 alone."""
        self.adopt(module)
        self._fits = build is not None
        if self.sync_batchnorm:
            convert: Callable[..., torch.nn.Module] = torch.nn.SyncBatchNorm.convert_sync_batchnorm
            self.adopt(convert(module))
        if build is not None:
            self.build(build)
            self.wrap()
            return
        self._keep_weights()
        if self.stage_of_zero == 3:
            self.wrap()
        else:
            self.place()

    def _keep_weights(self) -> None:
        """Evaluation in 16 bits has no masters in fp32 from which the weights could come back."""
        own = list(self.module.parameters())
        if self.precision_plugin.converts_batches and not any(map(is_sharded, own)):
            state = self.module.state_dict()
            self._whole = {name: value.cpu().clone() for name, value in state.items()}

    def build(self, build: Build) -> None:
        """Build the optimizer, unless the configuration names one.

        Raises:
            ConfigurationError: both do, or neither; or both give a learning rate scheduler.
        """
        super().build(build)
        check_given_once(self.config, self.optimizers, self.schedulers)
        self._groups = group_names(self.optimizers[0], self.module) if self.optimizers else None

    def wrap(self) -> None:
        """Make the engine; an optimizer that DeepSpeed made is then the strategy's."""
        optimizer = self.optimizers[0] if self.optimizers else None
        named = self.config.optimizer is not None
        trained = [each for each in self.module.parameters() if each.requires_grad]
        vendor.configure_checkpointing(self.settings)
        self.model = vendor.make_engine(
            Caller(self.module), optimizer, self.settings, trained if named else None
        )
        undo_first_step(self.model)
        reduce_unused(self.model, self.module)
        made = torch_optimizer(self.model)
        if optimizer is None and made is not None:
            self.optimizers = [made]
        self._owes_update = False

    # --- data -------------------------------------------------------------------------------------------

    def process_dataloader(self, loader: Iterable[Any], stage: str) -> Iterable[Any]:
        """Hold the batch size against the configuration's.

        Raises:
            ConfigurationError: they differ.
        """
        source = getattr(loader, "loader", loader)
        size = getattr(source, "batch_size", None)
        if stage == "train" and isinstance(size, int):
            settle(
                self.config,
                plan=self._asked,
                precision=self.precision_plugin.name,
                world_size=self.world_size,
                batch_size=size,
            )
        return super().process_dataloader(loader, stage)

    # --- steps ------------------------------------------------------------------------------------------

    @contextmanager
    def _bringing_back(self) -> Iterator[None]:
        yield
        # Not where an exception leaves: the other ranks may be anywhere.
        if self._whole is None and (self.stage_of_zero < 3 or self.whole_after_fit):
            whole = full_weights(self.model, self.module)
            if self.stage_of_zero < 3:
                whole = keep_changed(whole, self.module)
            self._whole = self.collectives.broadcast(whole)

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Every rank evaluates with rank 0's buffers; at the end weights come back from where they were divided to."""
        if name != "train":
            share_buffers(self.collectives, self.module)
        outermost = name == "train" or not self._fits
        bring_back = outermost and self._engine() is not None
        return self._bringing_back() if bring_back else super().stage(name)

    def grad_off(self) -> AbstractContextManager[Any]:
        """What is gathered under inference mode could not be trained again."""
        return torch.no_grad() if self.stage_of_zero == 3 else super().grad_off()

    def raw_step(self, name: str) -> Callable[..., Any]:
        """Training goes through the engine; evaluation too where the module alone has no weights."""
        engine, step = self._engine(), super().raw_step(name)
        if engine is None or (name != "training_step" and self.stage_of_zero < 3):
            return step
        return lambda *args, **kwargs: engine(lambda: step(*args, **kwargs))

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """The engine is told of each micro-batch whether it ends its window."""
        self.model.set_gradient_accumulation_boundary(False)  # type: ignore[operator]
        yield
        self.model.step()  # type: ignore[operator]
        self._owes_update = False

    def run_backward(self, loss: torch.Tensor) -> None:
        """Through the engine, which scales the loss where the precision needs that."""
        self._owes_update = True
        if self.backward_through is torch.Tensor.backward:
            vendor.backward(self.model, loss)
        else:
            vendor.backward_by(self.model, self.backward_through, loss)

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Nothing: the engine clears gradients after the update.

        Raises:
            UnsupportedError: an update was left out, and its gradients are in the engine.
        """
        if self._owes_update:
            raise UnsupportedError(
                f"optimizer_step has made no update, and {type(self).__name__} refuses that: {UPDATES_ALWAYS}"
            )

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        """Run the closure at the boundary, where backward averages, and let the engine update."""
        self.model.set_gradient_accumulation_boundary(True)  # type: ignore[operator]
        result = closure()
        self.model.step()  # type: ignore[operator]
        self._owes_update = False
        return result
