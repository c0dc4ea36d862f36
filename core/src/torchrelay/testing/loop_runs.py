"""Trainings, evaluations and predictions in which the loop and a strategy have to go together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, StepLR
from torch.utils.data import DataLoader, IterableDataset

from torchrelay.callbacks import Callback, EMAWeightAveraging
from torchrelay.data_hooks import DataHooks
from torchrelay.module import LightningModule, ModuleHooks
from torchrelay.plugin.specs import Capability
from torchrelay.testing.asking import ByHand, Closures, TwoOptimizers
from torchrelay.testing.context import Context
from torchrelay.testing.models import Regression, samples
from torchrelay.testing.numerics_problems import Final, Trained
from torchrelay.testing.training import BATCH, Place, in_each_process

UPDATES = 7
"""Batches of an epoch."""

RATE = 0.05
PREDICTED = 10
"""Samples to predict for, of each rank; no multiple of the batch size."""

OWN: tuple[str, ...] = (
    *("training_step", "validation_step", "configure_optimizers", "configure_model", "backward"),
    *("optimizer_step", "optimizer_zero_grad", "lr_scheduler_step", "configure_gradient_clipping"),
    *("on_validation_model_eval", "on_validation_model_train"),
)
NEEDING = {
    "on_after_backward": Capability.GRADIENTS_VISIBLE,
    "on_before_optimizer_step": Capability.GRADIENTS_VISIBLE,
    "configure_gradient_clipping": Capability.GRADIENTS_VISIBLE,
    "optimizer_step": Capability.CUSTOM_OPTIMIZER_STEP,
    "validation_step": Capability.EVALUATION,
}
"""Methods that are overridden only where the strategy has the capability."""

STEPS = ("training_step", "validation_step")
"""Methods that are noted only where they run at every batch."""

ELSEWHERE = ("prepare_data", "prepare_data_per_node", "test_dataloader", "predict_dataloader")
"""What not every rank calls, or training does not."""


class Scheduled(Trained):
    """Two schedulers: one follows updates, the other epochs."""

    def configure_optimizers(self) -> Any:
        """Rates that fall by both."""
        optimizer = SGD(self.parameters(), lr=RATE)
        self.made = ExponentialLR(optimizer, 0.9), ExponentialLR(optimizer, 0.5)
        steps, epochs = self.made
        return [optimizer], [{"scheduler": steps, "interval": "step"}, epochs]

    def on_train_end(self) -> None:
        """Note how often each was stepped, and the rate."""
        steps, epochs = self.made
        rate = steps.optimizer.param_groups[0]["lr"]
        self.notes = {"steps": steps.last_epoch, "epochs": epochs.last_epoch, "rate": rate}


class Ramp(LightningModule):
    """One weight whose gradient is 1, so that each update takes the learning rate off it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The weight itself."""
        return self.weight.sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note it on rank 0: a backend may divide weights between ranks. Collective."""
        strategy = self.trainer.strategy
        state = strategy.model_state()
        if strategy.is_global_zero:
            self.seen.append(state["weight"].detach().double().cpu().clone())

    def configure_optimizers(self) -> Any:
        """A rate that falls with the updates."""
        optimizer = SGD(self.parameters(), lr=1.0)
        schedule = LambdaLR(optimizer, rate_of)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_of(update: int) -> float:
    """The learning rate of an update."""
    return 1.0 / (1 + update)


class LeavesOut(Trained):
    """Leaves out every third update: calls the closure alone."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any
    ) -> None:
        """Update, or only compute."""
        if batch_idx % 3 == 2:
            optimizer_closure()
        else:
            optimizer.step(closure=optimizer_closure)


class Skips(Trained):
    """Has no loss for some batches, on every rank; with momentum, by which a gradient of zero would move weights."""

    def __init__(self) -> None:
        super().__init__(partial(SGD, lr=RATE, momentum=0.9))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """None for every third batch."""
        return None if batch_idx % 3 == 1 else self.loss(batch)


class Counts(Regression):
    """Counts the batches of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Count."""
        self._count("train")

    def on_validation_batch_start(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count."""
        self._count("validate")

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count."""
        self._count("test")

    def _count(self, stage: str) -> None:
        self.counts[stage] = self.counts.get(stage, 0) + 1


class Forgetful(Regression):
    """Dropout, which evaluation turns off."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.Dropout(0.5))


class Echo(Regression):
    """Predicts what it is given."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """The inputs."""
        return batch[0]


class Shares(IterableDataset[Any]):
    """Samples without a length, of which each rank gives its own share."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __iter__(self) -> Any:
        data = samples(UPDATES * BATCH * self.place.ranks)
        return (data[at] for at in range(self.place.rank, len(data), self.place.world))


class Recorded(Regression):
    """Data of its own, and a scheduler that follows updates."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def train_dataloader(self) -> Any:
        """Batches to train on."""
        return _loader(self.place)

    def val_dataloader(self) -> Any:
        """A batch for each rank."""
        return _loader(self.place, BATCH)

    def configure_optimizers(self) -> Any:
        """It steps at each update."""
        optimizer = SGD(self.parameters(), lr=RATE)
        return [optimizer], [{"scheduler": StepLR(optimizer, 1), "interval": "step"}]


def recorder(place: Place) -> tuple[Recorded, list[str]]:
    """A module that notes which of its methods is called, as far as the subject lets them be overridden."""
    lines: list[str] = []
    names = [*OWN, *(n for base in (ModuleHooks, DataHooks) for n in vars(base) if n[0] != "_")]
    traced = STEPS if Capability.EAGER_STEPS in place.lacking else ()
    left_out = (*ELSEWHERE, *traced)
    noted = [n for n in names if n not in left_out and NEEDING.get(n) not in place.lacking]
    methods = {n: _noting(n, lines) for n in noted}
    if Capability.EVALUATION in place.lacking:
        methods["validation_step"] = LightningModule.validation_step
    return type("Recorder", (Recorded,), methods)(place), lines


def _noting(name: str, lines: list[str]) -> Callable[..., Any]:
    inherited = getattr(Recorded, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        lines.append(name)
        return inherited(self, *args, **kwargs)

    return call


def run(context: Context, **settings: Any) -> None:
    """Do everything, one after the other."""
    in_each_process(context, _run_all, settings)


def _run_all(place: Place) -> None:
    # What may be refused in the middle comes last, as that may end the other processes.
    for name in sorted(RUNS, key=lambda each: NEEDED.get(each) in place.conditional):
        if NEEDED.get(name) not in place.lacking:
            place.attempt(name, partial(RUNS[name], place))


def _fit(make: Callable[[], Any], *, epochs: int = 1) -> Callable[[Place], dict[str, Any]]:
    def body(place: Place) -> dict[str, Any]:
        module, final = make(), Final()
        trainer = place.trainer(callbacks=final, max_epochs=epochs)
        trainer.fit(module, _loader(place))
        notes = getattr(module, "notes", {})
        return {"state": final.state, "updates": trainer.global_step, "notes": notes}

    return body


def _loader(place: Place, number: int = UPDATES * BATCH, **options: Any) -> DataLoader[Any]:
    return DataLoader(samples(number * place.ranks), place.batch_size, **options)


class StepsOf(Callback):
    """Keeps on rank 0 how many updates the optimizer's state tells of."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep them. Collective."""
        strategy = trainer.strategy
        state = strategy.optimizer_state(strategy.optimizers[0])
        # The contract asks for a whole one there alone.
        if strategy.is_global_zero:
            self.counts = sorted({int(each["step"]) for each in state["state"].values()})


def _counted(place: Place) -> dict[str, Any]:
    counter = StepsOf()
    trainer = place.trainer(callbacks=counter, max_epochs=2)
    trainer.fit(Trained(partial(AdamW, lr=0.01)), _loader(place))
    return {"global_step": trainer.global_step, "optimizer": counter.counts}


def _rates(place: Place) -> list[torch.Tensor]:
    module = Ramp()
    place.trainer().fit(module, _loader(place))
    return module.seen


def _hooks(place: Place) -> list[str]:
    trainer = place.trainer(limit_train_batches=2)
    module, lines = recorder(place)
    trainer.fit(module)
    return lines[: lines.index("teardown") + 1]


def _limits(place: Place) -> dict[str, int]:
    module = Counts()
    limits = {"limit_train_batches": 3, "limit_val_batches": 0.5, "limit_test_batches": 1}
    trainer = place.trainer(**limits)
    evaluates = Capability.EVALUATION not in place.lacking
    trainer.fit(module, _loader(place), _loader(place, 4 * BATCH) if evaluates else None)
    if evaluates:
        trainer.test(module, _loader(place), verbose=False)
    return module.counts


def _evaluate(place: Place, more: int = 0) -> dict[str, float]:
    data = samples(2 * BATCH * place.ranks + more)
    [found] = place.trainer().test(Forgetful(), DataLoader(data, place.batch_size), verbose=False)
    return dict(found)


def _evaluate_unevenly(place: Place) -> dict[str, float]:
    module = Regression()
    size = BATCH if place.world > 1 else BATCH * place.ranks
    data = samples(2 * BATCH * place.ranks + 1)
    [found] = place.trainer().test(module, DataLoader(data, size), verbose=False)
    return dict(found)


def _predict(place: Place) -> torch.Tensor:
    found = place.trainer().predict(Echo(), _loader(place, PREDICTED))
    return torch.cat([each.float() for each in found])


def _stream(place: Place) -> dict[str, Any]:
    final = Final()
    trainer = place.trainer(callbacks=final)
    trainer.fit(Trained(), DataLoader(Shares(place), place.batch_size))
    return {"state": final.state, "updates": trainer.global_step}


def _average(place: Place) -> dict[str, torch.Tensor]:
    module = Trained()
    place.trainer(callbacks=EMAWeightAveraging(decay=0.5)).fit(module, _loader(place))
    return {name: each.detach() for name, each in module.state_dict().items()}


RUNS: dict[str, Callable[[Place], Any]] = {
    "updates": _counted,
    "schedulers": _fit(Scheduled, epochs=2),
    "rates": _rates,
    "manual_optimization": _fit(ByHand),
    "several_optimizers": _fit(TwoOptimizers),
    "closure_optimizers": _fit(Closures),
    "custom_optimizer_step": _fit(LeavesOut),
    "skipped_steps": _fit(Skips),
    "hooks": _hooks,
    "limits": _limits,
    "evaluation": _evaluate,
    "uneven_evaluation": _evaluate_unevenly,
    "predictions": _predict,
    "iterable_datasets": _stream,
    "weight_averaging": _average,
}

NEEDED = {
    "manual_optimization": Capability.MANUAL_OPTIMIZATION,
    "several_optimizers": Capability.MULTIPLE_OPTIMIZERS,
    "closure_optimizers": Capability.CLOSURE_OPTIMIZERS,
    "custom_optimizer_step": Capability.CUSTOM_OPTIMIZER_STEP,
    "skipped_steps": Capability.SKIPPED_STEPS,
    "evaluation": Capability.EVALUATION,
    "uneven_evaluation": Capability.EVALUATION,
    "predictions": Capability.PREDICTION,
    "iterable_datasets": Capability.ITERABLE_DATASETS,
    "weight_averaging": Capability.WHOLE_WEIGHTS,
}
"""What is left out where the subject has not got the capability."""
