"""What the HPU strategies have to do under each of the bridge's rules: checks that broken strategies must fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from habana_frameworks.torch.dynamo.compile_backend import backends
from habana_frameworks.torch.hpu import graphs, machine
from habana_frameworks.torch.hpu.device import HPUTensor, traced
from habana_frameworks.torch.utils.internal import is_lazy
from torch import nn
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader

from torchrelay import Trainer
from torchrelay.callbacks import Callback
from torchrelay.collectives import NoCollectives
from torchrelay.environments import TorchrunEnvironment
from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.launchers import Launcher
from torchrelay.testing.models import Regression, samples
from torchrelay.testing.numerics_problems import Final, Tied, Trained
from torchrelay_hpu import HPUParallelStrategy, SingleHPUStrategy, vendor

BATCH, BATCHES = 4, 7
QUIET = {
    "max_epochs": 1,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "logger": False,
    "num_sanity_val_steps": 0,
}
NEAR = 1e-6
UPDATE = ["backward", "mark_step", "step", "mark_step"]


# --- runs -----------------------------------------------------------------------------------------------


def trainer(strategy: Any = "hpu_single", **options: Any) -> Trainer:
    """A silent Trainer on the simulated device."""
    given = {**QUIET, "devices": 1, **options}
    return Trainer(**given, strategy=strategy, accelerator="hpu_sim")


class Here(Launcher):
    """Runs the only rank in this process, which a failure leaves as it was."""

    name = "here"
    returns_to_caller = False

    def launch(self, function: Any, /, *args: Any) -> Any:
        return function(*args)


def parallel(**options: Any) -> Trainer:
    """One rank of HPUParallelStrategy."""
    return trainer(HPUParallelStrategy(launcher=Here()), **options)


def alone(**options: Any) -> Trainer:
    """The same on the processor."""
    return Trainer(**{**QUIET, **options}, strategy="single_device", accelerator="cpu", devices=1)


def data(number: int = BATCH * BATCHES) -> DataLoader[Any]:
    return DataLoader(samples(number), BATCH)


def fitted(
    made: Trainer, module: Any, *loaders: Any, ckpt_path: str | None = None
) -> dict[str, torch.Tensor]:
    """The weights that training ends with."""
    final = Final()
    made.callbacks.append(final)
    made.fit(module, *(loaders or (data(),)), ckpt_path=ckpt_path)
    return {name: value.cpu() for name, value in final.state.items()}


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def same(
    make: Any, *loaders: Any, strategy: Any = "hpu_single", near: float = NEAR, **options: Any
) -> None:
    """A training arrives where the processor does."""
    mine = fitted(trainer(strategy, **options), make(), *loaders)
    theirs = fitted(alone(**options), make(), *loaders)
    assert apart(mine, theirs) <= near, apart(mine, theirs)
    assert apart(theirs, {n: v.cpu() for n, v in make().state_dict().items()}) > 1e-3


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    """What is to be refused, by these words."""
    try:
        yield
    except kind as error:
        text = str(error)
        assert "\n" not in text, text
        assert all(word in text for word in words), text
        return
    raise AssertionError(f"not refused by {kind.__name__}")


@contextmanager
def machine_with(**variables: str) -> Iterator[None]:
    """The environment with some variables."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def mode(*, lazy: bool) -> Iterator[None]:
    """A bridge that was imported in a mode; no event has happened."""
    before = is_lazy._is_lazy
    with machine_with(PT_HPU_LAZY_MODE="1" if lazy else "0"):
        is_lazy._is_lazy = lazy
        machine.events.clear()
        try:
            yield
        finally:
            is_lazy._is_lazy = before
            machine.events.clear()


def adamw() -> Trained:
    return Trained(partial(AdamW, lr=0.02, weight_decay=0.1))


def momentum() -> Trained:
    return Trained(partial(SGD, lr=0.05, momentum=0.9))


# --- 1, 2: graphs are cut -------------------------------------------------------------------------------


def lazy_graphs_are_cut() -> None:
    trainer().fit(momentum(), data())
    assert machine.events == UPDATE * BATCHES


def each_micro_batch_is_cut() -> None:
    trainer(accumulate_grad_batches=3).fit(momentum(), data())
    window = ["backward", "mark_step"] * 2 + UPDATE
    assert machine.events == [*window, *window, *UPDATE]


def evaluation_is_cut() -> None:
    for stage in ("validate", "test", "predict"):
        machine.events.clear()
        getattr(trainer(), stage)(Regression(), data())
        assert machine.events == ["mark_step"] * BATCHES, stage


def eager_graphs_are_not_cut() -> None:
    with mode(lazy=False):
        made = trainer()
        made.fit(momentum(), data(), data())
        assert machine.events == ["backward", "step"] * BATCHES


def a_mode_that_changes_too_late_is_refused() -> None:
    with (
        machine_with(PT_HPU_LAZY_MODE="0"),
        refused(ConfigurationError, "PT_HPU_LAZY_MODE=0", "before Python"),
    ):
        trainer().fit(momentum(), data())


# --- 3, 4: the device -----------------------------------------------------------------------------------


class Where(Trained):
    """Notes where things are."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.notes["kinds"] = {type(each) for each in (*batch, *self.parameters())}
        self.notes["device"] = self.trainer.strategy.root_device
        return super().training_step(batch, batch_idx)


def everything_is_on_the_device() -> None:
    module = Where()
    trainer().fit(module, data())
    assert module.notes["kinds"] == {HPUTensor}
    assert module.notes["device"].index is None
    assert {each.device.type for each in module.parameters()} == {"cpu"}


def weights_stay_tied() -> None:
    module = Tied()
    mine, theirs = fitted(trainer(), module), fitted(alone(), Tied())
    assert apart(mine, theirs) <= NEAR
    assert module.notes["tied"]
    assert module.again.weight is module.hidden.weight


def evaluation_takes_no_inference_mode() -> None:
    seen = []

    class Looks(Regression):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

    trainer().validate(Looks(), data())
    assert set(seen) == {(False, False)}


# --- 5, 6, 7, 12: collectives of one process ------------------------------------------------------------


class Environment(Trained):
    """Notes the environment in the middle of training."""

    def on_train_start(self) -> None:
        self.notes["environment"] = dict(os.environ)


def the_environment_is_put_back() -> None:
    names = (*vendor.RENDEZVOUS, "HCCL_DISTRIBUTED_BACKEND")
    with machine_with(HLS_MODULE_ID="6", ID="me"):
        before = {name: os.environ.get(name) for name in names}
        module = Environment()
        parallel().fit(module, data())
        assert {name: os.environ.get(name) for name in names} == before
    found = module.notes["environment"]
    assert found["HCCL_DISTRIBUTED_BACKEND"] == "1"
    assert (found["RANK"], found["WORLD_SIZE"], found["ID"]) == ("0", "1", "0")
    assert found["HLS_MODULE_ID"] == "6"


class Meeting(NoCollectives):
    """Where a process would meet the others: notes what it has chosen by then."""

    world_size = 4

    def connect(self, environment: Any, device: torch.device) -> None:
        self.chosen = {name: os.environ.get(name) for name in ("HLS_MODULE_ID", "ID", "RANK")}


def met(local_rank: int) -> dict[str, str | None]:
    """What a process of the second of two machines with two HPUs each has chosen when it meets the others."""
    ranks = {"RANK": str(2 + local_rank), "LOCAL_RANK": str(local_rank), "GROUP_RANK": "1"}
    size = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29500"}
    meeting = Meeting()
    strategy = HPUParallelStrategy(
        collectives=meeting, cluster_environment=TorchrunEnvironment({**ranks, **size})
    )
    trainer(strategy, devices=2, num_nodes=2)
    try:
        strategy.setup_environment()
    finally:
        strategy.teardown()
    return meeting.chosen


def modules_are_chosen() -> None:
    with machine_with(HABANA_VISIBLE_MODULES="5,3"):
        for local_rank, module in enumerate(("5", "3")):
            rank = str(2 + local_rank)
            assert met(local_rank) == {"HLS_MODULE_ID": module, "ID": rank, "RANK": rank}
        os.environ["HABANA_VISIBLE_MODULES"] = "5"
        with refused(ConfigurationError, "HABANA_VISIBLE_MODULES=5 ", "local rank 1"):
            met(1)


class Talks(Trained):
    """Combines what HCCL does not."""

    def on_train_start(self) -> None:
        talk = self.trainer.strategy.collectives
        device = self.trainer.strategy.root_device
        big = torch.tensor([2**40 + 1, -3], device=device)
        self.notes["found"] = {
            "mean": talk.reduce(torch.tensor([1.5, 2.0], device=device)).cpu().tolist(),
            "integers": talk.reduce(big, "sum").cpu().tolist(),
            "fraction": talk.reduce(torch.tensor([3], device=device)).cpu().tolist(),
            "product": talk.reduce(torch.tensor([3.0], device=device), "product").cpu().tolist(),
            "flags": (talk.all(True), talk.any(False)),
            "double": talk.reduce(1e-12 + 1.0, "max"),
            "everything": talk.all_gather(torch.tensor([1, 2], dtype=torch.int8)).cpu().tolist(),
        }


def what_hccl_cannot_combine_is_combined() -> None:
    module = Talks()
    parallel().fit(module, data())
    assert module.notes["found"] == {
        "mean": [1.5, 2.0],
        "integers": [2**40 + 1, -3],
        "fraction": [3.0],
        "product": [3.0],
        "flags": (True, False),
        "double": 1e-12 + 1.0,
        "everything": [[1, 2]],
    }


def one_process_of_ddp_is_the_processor() -> None:
    same(adamw, strategy=HPUParallelStrategy(launcher=Here()), accumulate_grad_batches=3)


# --- 8, 9: state ----------------------------------------------------------------------------------------


class Saves(Trained):
    """Saves in the middle of training."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "one.ckpt"
                self.trainer.save_checkpoint(path)
                self.notes["saved"] = torch.load(path, weights_only=True)
            strategy = self.trainer.strategy
            self.notes["state"] = [
                strategy.model_state(),
                strategy.optimizer_state(strategy.optimizers[0]),
            ]


def _kinds(value: Any) -> set[type]:
    from torch.utils._pytree import tree_leaves

    return {type(each) for each in tree_leaves(value) if isinstance(each, torch.Tensor)}


def checkpoints_are_on_the_processor() -> None:
    module = Saves(partial(AdamW, lr=0.02))
    trainer().fit(module, data())
    assert _kinds(module.notes["state"]) == {torch.Tensor}
    assert len(module.notes["saved"]["optimizer_states"][0]["state"]) == 4


class Dropped(Trained):
    """Draws on the device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.5))


def the_device_s_random_state_travels() -> None:
    with TemporaryDirectory() as folder:
        half = str(Path(folder) / "half.ckpt")
        torch.hpu.manual_seed_all(3)
        whole = fitted(trainer(max_steps=6), Dropped())
        torch.hpu.manual_seed_all(3)
        made = trainer(max_steps=3)
        made.fit(Dropped(), data())
        made.save_checkpoint(half)
        assert len(torch.load(half, weights_only=True)["hpu"]["rng_states"][0]) == 1
        torch.hpu.manual_seed_all(99)
        final = Final()
        made = trainer(max_steps=6, callbacks=[final])
        made.fit(Dropped(), data(), ckpt_path=half)
        ended = {n: v.cpu() for n, v in final.state.items()}
        assert apart(ended, whole) <= NEAR


# --- 10, 11: modes and generations ----------------------------------------------------------------------


def graphs_in_eager_mode_are_refused() -> None:
    with mode(lazy=False), refused(UnsupportedError, "hpu_graphs", "lazy mode"):
        trainer(SingleHPUStrategy(hpu_graphs=["net"])).validate(Regression(), data())


def compiling_in_lazy_mode_is_refused() -> None:
    with traced(), refused(UnsupportedError, "hpu_backend", "PT_HPU_LAZY_MODE=0"):
        trainer(SingleHPUStrategy(compile=True)).fit(Regression(), data())


def compiled_steps_are_those_of_the_processor() -> None:
    with mode(lazy=False), traced():
        for strategy in (
            SingleHPUStrategy(compile=True),
            HPUParallelStrategy(compile=True, launcher=Here()),
        ):
            backends.compiled.clear()
            torch.compiler.reset()
            same(adamw, data(), data(), strategy=strategy)
            # Each once, although validation logs.
            assert backends.compiled == ["forward", "backward", "inference"], backends.compiled


def predictions_of_graphs_are_apart() -> None:
    graphs.replays.clear()
    module = Regression()
    predictions = trainer(SingleHPUStrategy(hpu_graphs=["net"])).predict(module, data())
    found = {str(n): v.cpu() for n, v in enumerate(predictions)}
    expected = {str(n): v for n, v in enumerate(alone().predict(Regression(), data()))}
    assert apart(found, expected) <= NEAR
    assert graphs.replays == ["Sequential"] * (BATCHES - 1)
    assert "forward" not in module.net.__dict__


def half_floats_on_the_first_generation_are_refused() -> None:
    with (
        machine_with(HPU_SIMULATOR_NAME="GAUDI"),
        refused(UnsupportedError, "16-mixed", "first generation"),
    ):
        trainer(precision="16-mixed").fit(Regression(), data())


def fp8_on_the_first_generation_is_refused() -> None:
    with (
        machine_with(HPU_SIMULATOR_NAME="GAUDI"),
        refused(UnsupportedError, "fp8", "Gaudi2 or higher"),
    ):
        trainer(precision="fp8").fit(Regression(), data())


def fp8_is_the_transformer_engine_s() -> None:
    from habana_frameworks.torch.hpex.experimental.transformer_engine import fp8

    fp8.entered.clear()
    seen = []

    class Looks(Trained):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(self(batch[0]).dtype)
            return super().training_step(batch, batch_idx)

    trainer(precision="fp8").fit(Looks(), data())
    assert fp8.entered == [None] * BATCHES
    assert set(seen) == {torch.bfloat16}


def mixed_precision_is_autocast_s() -> None:
    seen = []

    class Looks(Trained):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append((self(batch[0]).dtype, self.net[0].weight.dtype))
            return super().training_step(batch, batch_idx)

    mine = fitted(trainer(precision="bf16-mixed"), Looks())
    theirs = fitted(alone(precision="bf16-mixed"), Trained())
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    assert apart(mine, theirs) <= 1e-2


# --- 13: the optimizer ----------------------------------------------------------------------------------


def optimizers_are_built_after_the_move() -> None:
    same(adamw, data(), data(), max_epochs=2)
    same(momentum, accumulate_grad_batches=3, gradient_clip_val=0.1)


# --- fused operations -----------------------------------------------------------------------------------


class Kind(Callback):
    """Keeps the class of the optimizer, and its state."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        (optimizer,) = trainer.strategy.optimizers
        self.found = type(optimizer).__name__
        self.state = trainer.strategy.optimizer_state(optimizer)


def the_fused_optimizer_is_used() -> None:
    kind = Kind()
    with mode(lazy=False):
        same(adamw, strategy=SingleHPUStrategy(fused_adamw=True), near=1e-4)
        trainer(SingleHPUStrategy(fused_adamw=True), callbacks=kind).fit(adamw(), data())
    assert kind.found == "FusedAdamW"
    assert {float(each["step"]) for each in kind.state["state"].values()} == {float(BATCHES)}
    assert all("step" not in group for group in kind.state["param_groups"])


def the_fused_optimizer_goes_on() -> None:
    with mode(lazy=False), TemporaryDirectory() as folder:
        half = str(Path(folder) / "half.ckpt")
        made = alone(max_steps=4)
        made.fit(adamw(), data())
        made.save_checkpoint(half)
        final = Final()
        made = trainer(SingleHPUStrategy(fused_adamw=True), max_steps=7, callbacks=[final])
        made.fit(adamw(), data(), ckpt_path=half)
        whole = fitted(alone(), adamw())
        ended = {n: v.cpu() for n, v in final.state.items()}
        assert apart(ended, whole) <= 1e-4


def the_fused_clipping_is_used() -> None:
    from habana_frameworks.torch.hpex import normalization

    normalization.clipped.clear()
    same(momentum, strategy=SingleHPUStrategy(fused_clip_norm=True), gradient_clip_val=0.1)
    assert len(normalization.clipped) == BATCHES


HELPERS = (
    *(
        "trainer",
        "parallel",
        "alone",
        "data",
        "fitted",
        "apart",
        "same",
        "refused",
        "machine_with",
        "mode",
    ),
    *("adamw", "momentum", "met", "_kinds"),
)
CHECKS = [
    value
    for name, value in list(globals().items())
    if getattr(value, "__module__", "") == __name__
    and type(value).__name__ == "function"
    and name not in HELPERS
]
