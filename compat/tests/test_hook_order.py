"""Every hook is called as Lightning calls it: the same order, arguments and counters, but for what is listed here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

# Lightning advises more workers, and warns of few batches.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")

Lines = list[str]


def without(pattern: str, lines: Lines) -> Lines:
    return [line for line in lines if not re.search(pattern, line)]


def without_counters(pattern: str, lines: Lines) -> Lines:
    return [re.sub(r" \[.*", "", line) if re.search(pattern, line) else line for line in lines]


def without_evaluation_before(end: str, lines: Lines) -> Lines:
    """The lines without the validation that comes right before a line."""
    kept: Lines = []
    for line in lines:
        kept.append(line)
        if re.search(end, line):
            begin = _validation_at_the_end_of(kept[:-1])
            kept = [*kept[:begin], line]
    return kept


def _validation_at_the_end_of(lines: Lines) -> int:
    if not lines or "on_validation_model_train" not in lines[-1]:
        return len(lines)
    return max(i for i, line in enumerate(lines) if "on_validation_model_eval" in line)


def without_second_sanity_check(lines: Lines) -> Lines:
    second = lines.index("---- resume")
    found = [i for i, line in enumerate(lines) if "on_sanity_check" in line and i > second]
    return lines if not found else [*lines[: found[0]], *lines[found[-1] + 1 :]]


class Difference(NamedTuple):
    """A deliberate difference: the runs that show it, why, and what of the recordings it takes away."""

    cases: tuple[str, ...]
    reason: str
    forget: Callable[[Lines], Lines]


ALL = ("*",)
DELIBERATE = {
    "configure_callbacks": Difference(
        ALL,
        "asked for before processes are launched, when no Trainer is attached yet",
        lambda lines: without_counters("configure_callbacks", lines),
    ),
    "dataloaders": Difference(
        ALL,
        "fit asks for its loaders before on_fit_start, so that bad data is refused early",
        lambda lines: without("(train|val)_dataloader", lines),
    ),
    "sanity check": Difference(
        ("resume",),
        "a resumed run has validated before; it does not try validation again",
        without_second_sanity_check,
    ),
    "counters of a resume": Difference(
        ("resume",),
        "the counters are restored before on_fit_start, not between it and on_train_start",
        lambda lines: without_counters("on_fit_start", lines),
    ),
    "on_load_checkpoint": Difference(
        ("resume",),
        "checkpoints are read once optimizers are there, and callbacks are called before the module, as everywhere",
        lambda lines: without("on_load_checkpoint", lines),
    ),
    "epoch of a checkpoint": Difference(
        ("checkpoint", "resume"),
        "a checkpoint made after an epoch counts it as completed, so that a resume begins with the next",
        lambda lines: without_counters("on_save_checkpoint", lines),
    ),
    "epoch left early": Difference(
        ("max_steps", "stop"),
        "an epoch that was left early is not counted as completed, so that a resume goes on inside it",
        lambda lines: without_counters("on_train_end|on_fit_end|teardown", lines),
    ),
    "schedulers by epoch": Difference(
        ("scheduler by epoch",),
        "they step once the epoch's last on_train_batch_end is called, not right before it",
        lambda lines: without("lr_scheduler_step", lines),
    ),
    "validation before a stop": Difference(
        ("stop",),
        "should_stop ends the run at the next update; there is no validation first",
        lambda lines: without_evaluation_before(r"callback.on_train_epoch_end\(\) \[0 1\]", lines),
    ),
    "validation after -1": Difference(
        ("skip",),
        "an epoch that on_train_batch_start ends by -1 is validated as any other",
        lambda lines: without_evaluation_before(r"callback.on_train_epoch_end", lines),
    ),
}


# --- what is run ----------------------------------------------------------------------------------------------


def manual(self: Any, batch: Any, batch_idx: int) -> None:
    optimizer = self.optimizers()
    optimizer.zero_grad()
    self.manual_backward(self.loss(batch))
    self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
    optimizer.step()


def skipping(self: Any, batch: Any, batch_idx: int) -> Any:
    return -1 if batch_idx == 2 else None


def stopping(self: Any, batch: Any, batch_idx: int) -> Any:
    self.trainer.should_stop = True
    return self.loss(batch)


def no_loss(self: Any, batch: Any, batch_idx: int) -> Any:
    return None if batch_idx == 1 else {"loss": self.loss(batch), "more": 1}


def scheduled(self: Any, interval: str = "epoch") -> Any:
    optimizer = SGD(self.parameters(), lr=0.1)
    scheduler = {"scheduler": StepLR(optimizer, 1), "interval": interval}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


def on_plateau(self: Any) -> Any:
    optimizer = SGD(self.parameters(), lr=0.1)
    scheduler = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "val_loss"}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


@dataclass(frozen=True)
class Case:
    options: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    stage: str = "fit"


CASES = {
    "plain": Case(),
    "accumulation": Case({"accumulate_grad_batches": 3}),
    "interval": Case({"val_check_interval": 0.5}),
    "every second epoch": Case({"check_val_every_n_epoch": 2}),
    "no sanity check": Case({"num_sanity_val_steps": 0}),
    "limits": Case({"limit_train_batches": 3, "limit_val_batches": 1}),
    "clipping": Case({"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}),
    "fast_dev_run": Case({"fast_dev_run": 2}),
    "max_steps": Case({"max_steps": 6}),
    "manual": Case(changed={"automatic_optimization": False, "training_step": manual}),
    "no loss": Case(changed={"training_step": no_loss}),
    "scheduler by step": Case(
        changed={"configure_optimizers": lambda self: scheduled(self, "step")}
    ),
    "scheduler by epoch": Case(changed={"configure_optimizers": scheduled}),
    "plateau": Case(changed={"configure_optimizers": on_plateau}),
    "skip": Case(changed={"on_train_batch_start": skipping}),
    "stop": Case(changed={"training_step": stopping}),
    "validate": Case(stage="validate"),
    "test": Case(stage="test"),
    "predict": Case(stage="predict"),
}


@pytest.fixture
def recorded(recording, libraries, make_trainer, tmp_path) -> Callable[[str], dict[str, Lines]]:
    """What either library calls in a case."""

    def run(it: SimpleNamespace, case: Case) -> None:
        trainer = make_trainer(it.library, callbacks=[it.callback], **case.options)
        quiet = {"verbose": False} if case.stage in ("validate", "test") else {}
        getattr(trainer, case.stage)(it.module, **quiet)

    def run_with_several_loaders(it: SimpleNamespace, stage: str) -> None:
        trainer = make_trainer(it.library, callbacks=[it.callback])
        loaders = [recording.loader(1), recording.loader(3)]
        if stage == "fit":
            trainer.fit(it.module, recording.loader(2), loaders)
        else:
            getattr(trainer, stage)(it.module, loaders)

    def checkpoint(it: SimpleNamespace, *, resume: bool) -> None:
        folder = tmp_path / it.library.__name__
        keeper = it.library.callbacks.ModelCheckpoint(folder, save_last=True)
        kept = {"enable_checkpointing": True, "callbacks": [it.callback, keeper]}
        make_trainer(it.library, **kept).fit(it.module)
        if resume:
            it.log.lines.append("---- resume")
            trainer = make_trainer(it.library, max_epochs=3, callbacks=[it.callback])
            trainer.fit(it.module, ckpt_path=keeper.best_model_path)

    special = {
        "several loaders": lambda it: run_with_several_loaders(it, "fit"),
        "several loaders to predict": lambda it: run_with_several_loaders(it, "predict"),
        "checkpoint": lambda it: checkpoint(it, resume=False),
        "resume": lambda it: checkpoint(it, resume=True),
    }

    def both(name: str) -> dict[str, Lines]:
        case = CASES.get(name, Case())
        act = special.get(name, lambda it: run(it, case))
        return {
            each: recording.record(library, act, **case.changed)
            for each, library in libraries.items()
        }

    return both


NAMES = [*CASES, "several loaders", "several loaders to predict", "checkpoint", "resume"]


@pytest.mark.parametrize("name", NAMES)
def test_hooks_are_called_as_lightning_calls_them(recorded, name):
    lines = recorded(name)
    assert len(lines["torchrelay"]) > 20
    for difference in _of(name):
        lines = {each: difference.forget(told) for each, told in lines.items()}
    assert lines["torchrelay"] == lines["lightning"]


@pytest.mark.parametrize("name", DELIBERATE)
def test_a_deliberate_difference_is_still_one(recorded, name):
    case = "plain" if DELIBERATE[name].cases == ALL else DELIBERATE[name].cases[0]
    lines = recorded(case)
    for difference in _of(case):
        if difference is not DELIBERATE[name]:
            lines = {each: difference.forget(told) for each, told in lines.items()}
    assert lines["torchrelay"] != lines["lightning"], (
        "nothing differs any more: strike it from DELIBERATE"
    )


def _of(case: str) -> list[Difference]:
    return [each for each in DELIBERATE.values() if each.cases == ALL or case in each.cases]


def test_outputs_of_a_step_are_told_as_lightning_tells_them(libraries, recording, make_trainer):
    def told(library: Any) -> list[Any]:
        found = []

        class Listener(library.Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                loss = outputs.get("loss", torch.zeros(()))
                assert not loss.requires_grad
                found.append((float(loss), *sorted(outputs)))

        module = recording.make_module(library, recording.Log(), training_step=no_loss)
        trainer = make_trainer(library, callbacks=[Listener()], accumulate_grad_batches=2)
        trainer.fit(module)
        return found

    assert told(libraries["torchrelay"]) == told(libraries["lightning"])


def test_callbacks_of_a_module_take_the_place_of_the_trainers(libraries, recording, make_trainer):
    def kinds(library: Any) -> list[Any]:
        class One(library.Callback):
            def __init__(self, name: str) -> None:
                self.name = name

        class Other(One):
            pass

        changed = {"configure_callbacks": lambda self: [One("of module")]}
        module = recording.make_module(library, recording.Log(), **changed)
        trainer = make_trainer(library, callbacks=[One("of trainer"), Other("of trainer")])
        trainer.fit(module)
        trainer.validate(module, verbose=False)
        return [each.name for each in trainer.callbacks if isinstance(each, One)]

    assert kinds(libraries["torchrelay"]) == kinds(libraries["lightning"])
    assert kinds(libraries["torchrelay"]) == ["of trainer", "of module"]


def test_a_schedule_by_step_wins_over_a_rate_set_in_optimizer_step(
    libraries, recording, make_trainer
):
    def rates(library: Any) -> list[float]:
        def step(self: Any, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
            optimizer.step(closure=closure)
            for group in optimizer.param_groups:
                group["lr"] *= 0.5

        changed = {
            "configure_optimizers": lambda self: scheduled(self, "step"),
            "optimizer_step": step,
        }
        module = recording.make_module(library, recording.Log(), **changed)
        trainer = make_trainer(library)
        trainer.fit(module)
        return [trainer.optimizers[0].param_groups[0]["lr"]]

    assert rates(libraries["torchrelay"]) == pytest.approx(rates(libraries["lightning"]))
