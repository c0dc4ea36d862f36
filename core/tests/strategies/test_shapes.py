"""The contract fits backends unlike DDP: each shape trains to the numbers of the single device.

Each shape raises, or trains on NaN, when the loop calls it in an order that its kind of backend would not survive.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LinearLR, SequentialLR, StepLR
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from torchrelay import Callback, LightningModule
from torchrelay.callbacks.callback import Checkpointer
from torchrelay.errors import CheckpointError, ConfigurationError, UnsupportedError
from torchrelay.plugin import Capability
from torchrelay.precision import MixedPrecision
from torchrelay.strategies import Plan
from torchrelay.trainer.fit import FitLoop

SHAPES = ["engine", "fused", "wrapped", "lazy"]
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02),
}
EPOCHS = 3
SAMPLES, BATCH = 32, 3  # 11 batches; the last has 2 samples


class Tied(LightningModule):
    """Tied weights, buffers that training changes, two parameter groups and a schedule that follows updates."""

    def __init__(self, optimizer: str = "sgd", schedule: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        # A bias before batch norm has gradient zero, whose rounding errors Adam would blow up.
        self.first, self.norm = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)
        self.hidden, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
        self.again.weight = self.hidden.weight
        self.head = nn.Linear(6, 1)
        self.optimizer = optimizer
        self.schedule = schedule or (lambda o: LambdaLR(o, lambda step: 0.9**step))
        self.interval, self.frequency = "step", 1
        self.validated: list[float] = []
        self.indices: list[int] = []

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        hidden = torch.tanh(self.norm(self.first(x)))
        hidden = torch.tanh(self.again(torch.tanh(self.hidden(hidden))))
        return nn.functional.mse_loss(self.head(hidden), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.indices.append(batch_idx)
        loss = self.loss(batch)
        # Where a backend combines batches, only the module knows the size of the one that it is given.
        self.log("loss", loss, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch)
        self.validated.append(float(loss))
        self.log("val_loss", loss)

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.dim() > 1]
        others = [p for p in self.parameters() if p.dim() == 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimizer = OPTIMIZERS[self.optimizer](groups)
        scheduler = self.schedule(optimizer)
        every = {"interval": self.interval, "frequency": self.frequency}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **every}}


def loader(samples: int = SAMPLES, **options: Any) -> DataLoader[Any]:
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=BATCH, **options)


class Run:
    """A fit, and everything that two of them have to agree in."""

    def __init__(
        self, make_trainer: Any, strategy: Any, module: Any = None, **options: Any
    ) -> None:
        data = options.pop("data", None) or loader()
        path = options.pop("ckpt_path", None)
        self.module = module or Tied()
        options = {"max_epochs": EPOCHS, "precision": "64-true", **options}
        self.trainer = make_trainer(strategy=strategy, **options)
        self.trainer.fit(self.module, data, loader(9), ckpt_path=path)
        self.strategy = self.trainer.strategy
        [optimizer] = self.strategy.optimizers
        self.optimizer = self.strategy.optimizer_state(optimizer)

    def assert_equals(self, other: Run) -> None:
        assert self.trainer.global_step == other.trainer.global_step > 0
        assert self.trainer.current_epoch == other.trainer.current_epoch
        assert_close(self.module.state_dict(), other.module.state_dict())
        assert_close(self.optimizer, other.optimizer)
        assert self.module.validated == pytest.approx(other.module.validated, abs=1e-12)
        for name in ("val_loss", "loss_epoch"):
            found = self.trainer.callback_metrics[name], other.trainer.callback_metrics[name]
            assert float(found[0]) == pytest.approx(float(found[1]), abs=1e-12)


def assert_close(one: Any, other: Any) -> None:
    """Equal to 1e-12, tensors and numbers inside containers."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_close(mine, theirs)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    else:
        assert one == pytest.approx(other, abs=1e-12)


@pytest.fixture
def run(make_trainer, make_strategy):
    """Fits with a strategy of a shape."""

    def fit(shape: str, *args: Any, **options: Any) -> Run:
        return Run(make_trainer, make_strategy(shape), *args, **options)

    return fit


# --- the same numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 4},  # windows of 4, 4 and 3
        {"gradient_clip_val": 0.3},
        {"accumulate_grad_batches": 4, "gradient_clip_val": 0.3},
        {"accumulate_grad_batches": 2, "limit_train_batches": 7, "max_epochs": -1, "max_steps": 10},
    ],
    ids=["plain", "accumulated", "clipped", "accumulated and clipped", "limited"],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_trains_as_one_device_does(run, shape, optimizer, options):
    reference = run("single", Tied(optimizer), **options)
    other = run(shape, Tied(optimizer), **options)
    other.assert_equals(reference)
    assert other.module.indices == reference.module.indices


def test_the_reference_is_sensitive(run):
    plain = run("single")
    for options in ({"accumulate_grad_batches": 4}, {"gradient_clip_val": 0.3}):
        with pytest.raises(AssertionError):
            run("single", **options).assert_equals(plain)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: StepLR(o, 2, gamma=0.5),
        lambda o: SequentialLR(o, [LinearLR(o, 0.5), StepLR(o, 1, gamma=0.5)], milestones=[1]),
    ],
    ids=["plain", "combined"],
)
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_learning_rates_reach_the_backend(run, shape, schedule, interval):
    runs = []
    for name in ("single", shape):
        module = Tied("adamw", schedule)
        module.interval = interval
        runs.append(run(name, module, accumulate_grad_batches=2))
    runs[1].assert_equals(runs[0])
    assert runs[0].optimizer["param_groups"][0]["lr"] < 0.02


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_several_updates_in_one_call(run, optimizer, accumulate):
    """Learning rates can change between calls only, so the schedule here does so after every second update."""
    runs = []
    for name in ("single", "fused twice"):
        module = Tied(optimizer, lambda o: StepLR(o, 1, gamma=0.8))
        module.frequency = 2
        runs.append(run(name, module, data=loader(24), accumulate_grad_batches=accumulate))
    runs[1].assert_equals(runs[0])
    assert runs[1].trainer.global_step == EPOCHS * 8 // accumulate


@pytest.mark.parametrize("frequency", [1, 3])
def test_schedules_follow_every_update_of_a_call(run, frequency):
    """Too late for the call that they are in, but none is lost."""
    rates = []
    for name in ("single", "fused twice"):
        module = Tied(schedule=lambda o: StepLR(o, 1, gamma=0.9))
        module.frequency = frequency
        fitted = run(name, module, data=loader(24))
        rates.append(fitted.optimizer["param_groups"][0]["lr"])
    assert rates[1] == rates[0] == pytest.approx(0.05 * 0.9 ** (24 // frequency))


def test_max_steps_counts_updates_of_one_call(run):
    options = {"data": loader(24), "max_epochs": -1, "max_steps": 12}
    module = [Tied(schedule=lambda o: StepLR(o, 100)) for _ in range(2)]
    run("fused twice", module[0], **options).assert_equals(run("single", module[1], **options))


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("shape", ["wrapped", "lazy"])
def test_gradients_are_reduced_before_they_are_unscaled(run, shape, precision):
    """With a scale so large that the first updates overflow and are skipped."""
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.3}
    runs = []
    for name in ("single", shape):
        scaler = (
            torch.amp.GradScaler("cpu", init_scale=2.0**24) if precision == "16-mixed" else None
        )
        options["precision"] = MixedPrecision(precision, scaler=scaler)
        runs.append(run(name, Tied("adamw"), **options))
    runs[1].assert_equals(runs[0])
    if precision == "16-mixed":
        assert runs[0].optimizer["state"]["head.weight"]["step"] < runs[0].trainer.global_step


@pytest.mark.parametrize("without", [(1, 2, 3, 9), (4, 5, 6, 7)], ids=["some", "a whole window"])
@pytest.mark.parametrize("shape", ["engine", "wrapped", "lazy"])
def test_micro_batches_without_a_loss(run, shape, without):
    class Sparse(Tied):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx in without else loss

    options = {"accumulate_grad_batches": 4}
    run(shape, Sparse("adamw"), **options).assert_equals(run("single", Sparse("adamw"), **options))


# --- state that travels ---------------------------------------------------------------------------------


class SaveAt(Checkpointer):
    """Writes a checkpoint after so many updates."""

    def __init__(self, path: Any, updates: int, reason: str = "step") -> None:
        self.path, self.moment = str(path), (updates, reason)

    def on_resumable_point(self, trainer: Any, pl_module: Any, reason: str) -> None:
        if (trainer.global_step, reason) == self.moment:
            trainer.save_checkpoint(self.path)


MOMENTS = {
    "inside an epoch": (5, "step"),
    "at its last update": (6, "step"),
    "after it": (6, "epoch"),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", ["there", "back", "same"])
def test_resumes_under_another_strategy(run, tmp_path, shape, way, optimizer, moment):
    options = {"accumulate_grad_batches": 4, "gradient_clip_val": 0.5}
    first, second = {"there": (shape, "single"), "back": ("single", shape), "same": (shape, shape)}[
        way
    ]
    whole = run("single", Tied(optimizer), **options)
    path = tmp_path / "half.ckpt"
    run(first, Tied(optimizer), callbacks=[SaveAt(path, *MOMENTS[moment])], **options)
    saved = torch.load(path, weights_only=True)
    assert not any(value.isnan().any() for value in saved["state_dict"].values())
    assert saved["loops"]["fit"]["batch"] in {"inside an epoch": [8], "after it": [0]}.get(
        moment, [11, 12]
    )
    rest = run(second, Tied(optimizer), ckpt_path=path, **options)
    whole.module.validated = whole.module.validated[-len(rest.module.validated) :]
    assert_close(rest.module.state_dict(), whole.module.state_dict())
    assert_close(rest.optimizer, whole.optimizer)
    assert rest.module.validated == pytest.approx(whole.module.validated, abs=1e-12)
    assert rest.trainer.global_step == whole.trainer.global_step
    assert rest.module.indices[0] == (8 if moment == "inside an epoch" else 0)


def test_refuses_a_checkpoint_between_its_calls(run, tmp_path):
    path = tmp_path / "between.ckpt"
    run("single", data=loader(24), callbacks=[SaveAt(path, 3)])
    with pytest.raises(
        CheckpointError, match=r"3 batches into an epoch, and FusedStrategy takes 2"
    ):
        run("fused twice", data=loader(24), ckpt_path=path)


@pytest.mark.parametrize("shape", SHAPES)
def test_leaves_a_module_that_anybody_can_train(run, shape):
    module = run(shape, max_epochs=1).module
    reference = run("single", max_epochs=1).module
    for trained in (module, reference):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        for x, y in loader():
            optimizer.zero_grad()
            trained.loss((x.double(), y.double())).backward()
            optimizer.step()
    assert_close(module.state_dict(), reference.state_dict())


@pytest.mark.parametrize("shape", SHAPES)
def test_evaluates_alone(run, make_trainer, make_strategy, shape):
    """Without an optimizer there is nothing to own, fuse or wrap."""
    fitted = run(shape)
    trainer = make_trainer(strategy=make_strategy(shape), precision="64-true")
    [found] = trainer.validate(fitted.module, loader(9))
    assert found["val_loss"] == pytest.approx(float(fitted.trainer.callback_metrics["val_loss"]))


# --- data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["fused", "lazy"])
def test_samplers_behind_a_backends_loader_hear_of_epochs(run, shape):
    class Sampler(DistributedSampler):  # type: ignore[type-arg]
        def set_epoch(self, epoch: int) -> None:
            super().set_epoch(epoch)
            heard.append(epoch)

    heard: list[int] = []
    data = loader().dataset
    sampled = DataLoader(
        data, batch_size=BATCH, sampler=Sampler(data, num_replicas=1, rank=0, seed=3)
    )
    other = run(shape, data=sampled)
    assert list(dict.fromkeys(heard)) == [0, 1, 2]
    other.assert_equals(run("single", data=sampled))


def test_a_backends_loader_is_read_to_its_end(run):
    fitted = run("lazy", num_sanity_val_steps=0)
    graph = fitted.strategy.graph
    assert not graph.pending
    assert graph.syncs == EPOCHS * (11 + 1 + 3 + 1)


def test_a_call_that_the_data_does_not_fill_is_refused(run):
    with pytest.raises(ConfigurationError, match="11 batches cannot be taken 2 at a time"):
        run("fused twice")


def test_a_limit_counts_the_users_batches(run):
    limited = run("fused twice", limit_train_batches=6, max_epochs=1)
    assert limited.module.indices == list(range(6))
    assert limited.trainer.global_step == 6
    assert limited.trainer.num_training_batches == 3


# --- what a shape cannot do -----------------------------------------------------------------------------


class OwnStep(Tied):
    """Updates at every second boundary only."""

    def optimizer_step(
        self, epoch: Any, batch_idx: int, optimizer: Any, optimizer_closure: Any
    ) -> None:
        if batch_idx % 2:
            optimizer_closure()
        else:
            optimizer.step(closure=optimizer_closure)


class Manual(Tied):
    automatic_optimization = False

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(batch)
        self.log("loss", loss, on_epoch=True)
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(self.number)]


class Reader(Tied):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Wants gradients."""


class ReadingCallback(Callback):
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Wants gradients."""


class Searching(Tied):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


class OwnSearch(Tied):
    def configure_optimizers(self) -> Any:
        class Search(torch.optim.SGD):
            def step(self, closure: Any) -> Any:
                closure()
                return super().step(closure)

        return Search(self.parameters(), lr=0.1)


REFUSED = {
    "custom optimizer_step": (OwnStep, {}),
    "manual optimization": (lambda: Manual(1), {}),
    "clipping by value": (Tied, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}),
    "a hook that reads gradients": (Reader, {}),
    "a callback that reads gradients": (Tied, {"callbacks": [ReadingCallback()]}),
    "LBFGS": (Searching, {}),
    "an optimizer that demands a closure": (OwnSearch, {}),
    "a stream": (Tied, {"data": (batch for batch in ())}),
}
REASONS = {
    "engine": {
        "custom optimizer_step": "the engine counts every micro-batch",
        "manual optimization": "the engine decides when to update",
        "clipping by value": "the engine clips by norm alone",
        "a hook that reads gradients": "the engine keeps gradients to itself",
        "a callback that reads gradients": "the engine keeps gradients to itself",
        "LBFGS": "the engine updates without a closure",
        "an optimizer that demands a closure": "the engine updates without a closure",
    },
    "fused": {
        "custom optimizer_step": "the update is inside the compiled step",
        "manual optimization": "the update is inside the compiled step",
        "clipping by value": "the compiled step clips by norm alone",
        "a hook that reads gradients": "gradients never leave the device",
        "a callback that reads gradients": "gradients never leave the device",
        "LBFGS": "the compiled step has no closure",
        "an optimizer that demands a closure": "the compiled step has no closure",
        "a stream": "a call takes a known number of batches",
    },
    "wrapped": {
        "LBFGS": "gradients are reduced before a closure runs",
        "an optimizer that demands a closure": "gradients are reduced before a closure runs",
    },
    "lazy": {
        "LBFGS": "each evaluation would need a graph of its own",
        "an optimizer that demands a closure": "each evaluation would need a graph of its own",
    },
}


@pytest.mark.parametrize(
    ("shape", "what"), [(shape, what) for shape, reasons in REASONS.items() for what in reasons]
)
def test_refuses_with_the_declared_reason(run, shape, what):
    make, options = REFUSED[what]
    module = make()
    with pytest.raises(UnsupportedError, match=REASONS[shape][what]) as caught:
        run(shape, module, **options)
    assert "\n" not in str(caught.value)
    assert not module.indices


@pytest.mark.parametrize("shape", ["engine", "fused", "wrapped"])
def test_refuses_several_optimizers(make_trainer, make_strategy, shape):
    """In setup, on every rank alike: how many there are is known only to the module."""
    strategy = make_trainer(strategy=make_strategy(shape), precision="64-true").strategy
    strategy.negotiate(Plan())

    def build(module: nn.Module) -> Any:
        return [torch.optim.SGD(module.parameters(), lr=0.1) for _ in range(2)], []

    reason = strategy.capabilities[Capability.MULTIPLE_OPTIMIZERS].reason
    with pytest.raises(UnsupportedError, match=reason):
        strategy.setup(Tied(), build)


def test_refuses_a_step_limit_that_no_call_ends_at(run):
    with pytest.raises(
        ConfigurationError, match=r"max_steps=5 is no multiple of the 2 .*max_steps=6"
    ):
        run("fused twice", data=loader(24), max_steps=5)


# --- what the user does between backward and update -----------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("shape", ["wrapped", "lazy"])
def test_a_skipped_update_leaves_nothing_behind(run, shape, optimizer, accumulate):
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 0.3}

    class Skipping(Tied):
        boundaries = 0

        def optimizer_step(
            self, epoch: Any, batch_idx: int, optimizer: Any, optimizer_closure: Any
        ) -> None:
            self.boundaries += 1
            if self.boundaries % 3:
                optimizer.step(closure=optimizer_closure)
            elif self.boundaries % 2:
                optimizer_closure()

    other = run(shape, Skipping(optimizer), **options)
    other.assert_equals(run("single", Skipping(optimizer), **options))
    assert other.trainer.global_step < other.module.boundaries


@pytest.mark.parametrize("shape", ["wrapped", "lazy"])
def test_manual_optimization(run, shape):
    run(shape, Manual(1)).assert_equals(run("single", Manual(1)))


@pytest.mark.parametrize("shape", ["wrapped", "lazy"])
def test_hooks_see_final_gradients(run, shape):
    class Noting(Tied):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            norms = [
                float(p.grad.norm()) for group in optimizer.param_groups for p in group["params"]
            ]
            self.validated += norms

    other = run(shape, Noting(), accumulate_grad_batches=4, gradient_clip_val=0.1)
    other.assert_equals(run("single", Noting(), accumulate_grad_batches=4, gradient_clip_val=0.1))


# --- the shapes notice a loop that is wrong -------------------------------------------------------------


def _outside_its_context(loop: Any) -> None:
    loop.strategy.accumulating = nullcontext


def _clears_after_backward(loop: Any) -> None:
    compute = loop.compute

    def wrong() -> Any:
        loss = compute()
        loop.strategy.zero_grad = lambda o: o.zero_grad()
        loop.zero_grad()
        return loss

    loop.compute = wrong


def _never_finalizes(loop: Any) -> None:
    loop.strategy.finalize_gradients = lambda optimizer: None


def _clips_first(loop: Any) -> None:
    def wrong(optimizer: Any) -> None:
        loop.strategy.clip_gradients(optimizer, loop.plan.clip)
        loop.strategy.finalize_gradients(optimizer)

    loop.ready = wrong


def _ignores_what_is_negotiated(loop: Any) -> None:
    loop.session.plan = loop.session.options.plan


def _enters_no_stage(loop: Any) -> None:
    loop.strategy.stage = lambda name: nullcontext()


def _validates_without_a_stage(loop: Any) -> None:
    stage = loop.strategy.stage
    loop.strategy.stage = lambda name: stage(name) if name == "train" else nullcontext()


WRONG = [
    ("engine", _outside_its_context),
    ("engine", _ignores_what_is_negotiated),
    ("fused", _ignores_what_is_negotiated),
    ("fused", _enters_no_stage),
    ("fused", _validates_without_a_stage),
    ("wrapped", _clears_after_backward),
    ("wrapped", _never_finalizes),
    ("wrapped", _clips_first),
    ("lazy", _never_finalizes),
    ("lazy", _clips_first),
]


@pytest.mark.parametrize(("shape", "mistake"), WRONG)
def test_notices_a_mistake_of_the_loop(run, monkeypatch, shape, mistake):
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.3}
    right = run("single", **options)
    made = FitLoop.__init__

    def spoiled(loop: Any, session: Any) -> None:
        made(loop, session)
        mistake(loop)

    monkeypatch.setattr(FitLoop, "__init__", spoiled)
    with pytest.raises((RuntimeError, AssertionError)):
        run(shape, **options).assert_equals(right)
