"""A module and a callback of either library that write down every hook that is called, and in what state."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

STAGES = ("train", "validation", "test", "predict")
MOMENTS = (
    *("on_fit_start", "on_fit_end", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step", "setup", "teardown"),
    *(f"on_{stage}_{moment}" for stage in STAGES for moment in ("start", "end")),
    *(f"on_{stage}_epoch_{moment}" for stage in STAGES for moment in ("start", "end")),
    *(f"on_{stage}_batch_{moment}" for stage in STAGES for moment in ("start", "end")),
    *("on_save_checkpoint", "on_load_checkpoint"),
)
OF_MODULES = (
    *MOMENTS,
    *("prepare_data", "configure_model", "configure_optimizers", "configure_callbacks"),
    *(f"{stage}_dataloader" for stage in ("train", "val", "test", "predict")),
    *("training_step", "validation_step", "test_step", "predict_step"),
    *("forward", "backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"),
    *("configure_gradient_clipping", "on_before_batch_transfer", "transfer_batch_to_device"),
    *("on_after_batch_transfer", "on_validation_model_eval", "on_validation_model_train"),
    *("on_test_model_eval", "on_test_model_train", "on_predict_model_eval"),
)
OF_CALLBACKS = (
    *MOMENTS,
    *("on_sanity_check_start", "on_sanity_check_end", "on_exception"),
    *("state_dict", "load_state_dict"),
)


class Log:
    """What was called: the hook, its arguments, and the epoch and the step that `trainer` told then."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def around(self, who: str, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """The method `act`, written down."""

        def method(owner: Any, *args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            trainer = getattr(owner, "_trainer", None)
            if who == "callback" and "state_dict" not in name:
                trainer, _, *given = given
            told = ", ".join(describe(each) for each in given)
            where = f" [{trainer.current_epoch} {trainer.global_step}]" if trainer else ""
            self.lines.append(f"{'  ' * self.depth}{who}.{name}({told}){where}")
            self.depth += 1
            try:
                return act(owner, *args, **kwargs)
            finally:
                self.depth -= 1

        # Both libraries read the parameters of steps; a __wrapped__ would tell Lightning that nothing is overridden.
        method.__signature__ = inspect.signature(act)  # type: ignore[attr-defined]
        return method


def describe(value: Any) -> str:
    """An argument as far as both libraries should agree on it."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, (int, str, float)) or value is None:
        return repr(value)
    kinds = {
        "optimizer": lambda: (
            isinstance(value, torch.optim.Optimizer) or hasattr(value, "optimizer")
        ),
        "scheduler": lambda: isinstance(value, torch.optim.lr_scheduler.LRScheduler),
        "loss": lambda: isinstance(value, torch.Tensor) and value.dim() == 0,
        "batch": lambda: isinstance(value, (torch.Tensor, list, tuple)),
        "device": lambda: isinstance(value, torch.device),
        "dict": lambda: isinstance(value, dict),
        "function": lambda: callable(value),
    }
    return next((kind for kind, fits in kinds.items() if fits()), type(value).__name__)


def loader(batches: int) -> DataLoader[Any]:
    x = torch.randn(2 * batches, 3, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=2)


class Regression:
    """A small regression, for a LightningModule of either library to inherit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 1)

    def forward(self, x: Any) -> Any:
        return self.net(x)

    def loss(self, batch: Any) -> Any:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return loader(4)

    def val_dataloader(self) -> Any:
        return loader(2)

    def test_dataloader(self) -> Any:
        return loader(2)

    def predict_dataloader(self) -> Any:
        return loader(2)

    def configure_callbacks(self) -> Any:
        return []


def make_module(library: Any, log: Log, **changed: Any) -> Any:
    """A module of `library` that writes everything down; `changed` are methods and attributes."""
    kind = type("Plain", (Regression, library.LightningModule), changed)
    hooks = {name: log.around("module", name, getattr(kind, name)) for name in OF_MODULES}
    return type("Recorded", (kind,), hooks)()


def make_callback(base: type, log: Log, **changed: Any) -> Any:
    """A callback that writes everything down."""
    kind = type("Plain", (base,), changed)
    hooks = {name: log.around("callback", name, getattr(kind, name)) for name in OF_CALLBACKS}
    return type("Recorded", (kind,), hooks)()


def record(library: Any, act: Callable[[SimpleNamespace], Any], **changed: Any) -> list[str]:
    """What is called while `act` uses a module and a callback of `library`."""
    log = Log()
    act(
        SimpleNamespace(
            library=library,
            log=log,
            module=make_module(library, log, **changed),
            callback=make_callback(library.Callback, log),
        )
    )
    return log.lines
