"""What BaguaStrategy has to do under each of Bagua's rules, in one process: checks that broken strategies must fail."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bagua.torch_api.algorithms.q_adam import QAdamOptimizer
from bagua_simulated.machine import machine
from torch.optim import LBFGS, SGD, Adagrad, AdamW
from torch.utils.data import DataLoader

from torchrelay import Trainer
from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.launchers import Launcher
from torchrelay.testing.models import Regression, samples
from torchrelay.testing.numerics_problems import Final, Trained
from torchrelay_bagua import (
    AsyncAverage,
    BaguaStrategy,
    Decentralized,
    LowPrecisionDecentralized,
    plugin,
    vendor,
)

BATCH, BATCHES = 4, 7
NEAR = 1e-6
QUIET = {
    "max_epochs": 1,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "logger": False,
    "num_sanity_val_steps": 0,
}


# --- runs -----------------------------------------------------------------------------------------------


class Here(Launcher):
    """Runs the only rank in this process."""

    name = "here"
    returns_to_caller = False

    def launch(self, function: Any, /, *args: Any) -> Any:
        return function(*args)


def trainer(algorithm: Any = "gradient_allreduce", own: Any = None, **options: Any) -> Trainer:
    """A silent Trainer of one rank on the simulated GPU."""
    strategy = BaguaStrategy(algorithm, launcher=Here(), **(own or {}))
    place = {"accelerator": "bagua_sim", "devices": 1, "strategy": strategy}
    return Trainer(**{**QUIET, **place, **options})


def alone(**options: Any) -> Trainer:
    """The same on the processor, without Bagua."""
    place = {"accelerator": "cpu", "devices": 1, "strategy": "single_device"}
    return Trainer(**{**QUIET, **place, **options})


def data(number: int = BATCH * BATCHES) -> DataLoader[Any]:
    return DataLoader(samples(number), BATCH)


def fitted(made: Trainer, module: Any, **options: Any) -> dict[str, torch.Tensor]:
    """The weights that training ends with."""
    final = Final()
    made.callbacks.append(final)
    made.fit(module, data(), **options)
    return {name: value.cpu() for name, value in final.state.items()}


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


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
def kept(names: set[str]) -> Iterator[None]:
    """A set that is to be as it was."""
    before = set(names)
    try:
        yield
    finally:
        names.update(before)


@contextmanager
def events() -> Iterator[list[str]]:
    """What is communicated meanwhile."""
    machine.events.clear()
    yield machine.events
    machine.events.clear()


def adamw() -> Trained:
    return Trained(partial(AdamW, lr=0.02, weight_decay=0.1))


def momentum() -> Trained:
    return Trained(partial(SGD, lr=0.05, momentum=0.9))


def qadam(warmup: int = 3) -> Trained:
    return Trained(partial(QAdamOptimizer, lr=0.01, warmup_steps=warmup))


# --- gradients ------------------------------------------------------------------------------------------


def gradients_keep_their_place() -> None:
    assert apart(fitted(trainer(), momentum()), fitted(alone(), momentum())) <= NEAR


def gradients_are_sent_at_the_end_of_a_window() -> None:
    with events() as found:
        mine = fitted(trainer(accumulate_grad_batches=3), adamw())
        assert found == ["reduced"] * 3
    assert apart(mine, fitted(alone(accumulate_grad_batches=3), adamw())) <= NEAR


def a_gradient_that_is_missing_is_told() -> None:
    class Half(Trained):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net[0](batch[0]).square().mean()

    class Whole(Half):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + 0 * sum(
                p.sum() for p in self.parameters()
            )

    with refused(UnsupportedError, "unused", "net.2.weight", "add 0 * p.sum() to the loss"):
        trainer().fit(Half(), data())
    with events() as found:
        trainer().fit(Whole(), data())
        assert found == ["reduced"] * BATCHES


def nothing_is_sent_after_training() -> None:
    module = momentum()
    trainer().fit(module, data())
    before = machine.marked
    module.training_step(next(iter(data())), 0).backward()
    assert machine.marked == before > 0


def optimizers_get_their_step_back() -> None:
    kept: list[Any] = []

    class Keeps(Trained):
        def on_train_start(self) -> None:
            kept.extend(self.trainer.optimizers)

    trainer("low_precision_decentralized").fit(Keeps(), data())
    assert len(kept) == 1
    assert not {"step", vendor.OF_AN_OPTIMIZER} & vars(kept[0]).keys()


def a_trained_module_can_be_pickled() -> None:
    module = momentum()
    trainer().fit(module, data())
    copy = pickle.loads(pickle.dumps(module.net))
    assert apart(dict(copy.state_dict()), dict(module.net.state_dict())) == 0
    assert not any(vars(each) for each in module.parameters())


def a_part_is_trained_in_another_module() -> None:
    first, second = momentum(), momentum()
    trainer().fit(first, data())
    second.encoder = torch.nn.Sequential(first.net, torch.nn.Identity())
    second.net = second.encoder[0]
    trainer("decentralized").fit(second, data())
    trainer().fit(first, data())


def half_weights_are_refused() -> None:
    module = momentum()
    module.net[0].to(torch.bfloat16)
    with refused(UnsupportedError, "net.0.weight", "torch.bfloat16"):
        trainer().fit(module, data())


# --- the environment ------------------------------------------------------------------------------------


def the_environment_is_put_back() -> None:
    found = {}

    class Looks(Trained):
        def on_train_start(self) -> None:
            found.update({name: os.environ.get(name) for name in vendor.VARIABLES})

    before = dict(os.environ)
    trainer().fit(Looks(), data())
    left = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
    assert left <= {"TORCHINDUCTOR_CACHE_DIR"}, left  # torch's own, when an optimizer is first made
    assert found == {
        "BAGUA_AUTOTUNE": "0",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "NODE_RANK": "0",
        "RANK": "0",
        "WORLD_SIZE": "1",
    }


def tuning_is_off_unless_asked_for() -> None:
    found = []

    class Looks(Trained):
        def on_train_start(self) -> None:
            found.append(os.environ["BAGUA_AUTOTUNE"])

    trainer().fit(Looks(), data())
    assert found == ["0"]


def tuning_that_cannot_be_is_refused() -> None:
    for algorithm in ("decentralized", "low_precision_decentralized", "async"):
        with refused(UnsupportedError, "autotune=True", repr(algorithm), "100 steps"):
            trainer(algorithm, {"autotune": True}).fit(momentum(), data())
    trainer().fit(momentum(), data())
    with refused(ConfigurationError, "autotune=True", "started without it", "another program"):
        trainer(own={"autotune": True}).fit(momentum(), data())


# --- what a checkpoint changes --------------------------------------------------------------------------


def _resumed(algorithm: Any, module: Any, at: int, steps: int) -> dict[str, torch.Tensor]:
    with TemporaryDirectory() as folder:
        half = str(Path(folder) / "half.ckpt")
        made = trainer(algorithm, max_steps=at)
        made.fit(module(), data())
        made.save_checkpoint(half)
        return fitted(trainer(algorithm, max_steps=steps), module(), ckpt_path=half)


def replicas_are_of_the_checkpoint_s_weights() -> None:
    algorithm = LowPrecisionDecentralized(hierarchical=False)
    whole = fitted(trainer(algorithm, max_steps=6), adamw())
    assert apart(_resumed(algorithm, adamw, 3, 6), whole) <= NEAR


def qadam_goes_on_after_its_warm_up() -> None:
    whole = fitted(trainer("qadam", max_steps=7), qadam())
    assert apart(_resumed("qadam", qadam, 5, 7), whole) <= NEAR


def adam_goes_on() -> None:
    whole = fitted(trainer(max_steps=6), adamw())
    assert apart(_resumed("gradient_allreduce", adamw, 3, 6), whole) <= NEAR


# --- qadam ----------------------------------------------------------------------------------------------


def qadam_has_one_optimizer_of_its_own() -> None:
    with refused(ConfigurationError, "exactly one QAdamOptimizer", "AdamW"):
        trainer("qadam").fit(adamw(), data())
    with refused(ConfigurationError, "QAdamOptimizer", "bagua_qadam"):
        trainer().fit(qadam(), data())


def qadam_warms_up() -> None:
    with refused(ValueError, "warmup_steps"):
        trainer("qadam").fit(qadam(0), data())


def qadam_takes_the_vendor_s_steps() -> None:
    weights = fitted(trainer("qadam"), qadam())
    assert apart(weights, {n: v.detach() for n, v in qadam().state_dict().items()}) > 1e-3


# --- async ----------------------------------------------------------------------------------------------


def _background(**options: Any) -> AsyncAverage:
    return AsyncAverage(sync_interval_ms=1, **options)


def the_background_begins_and_ends() -> None:
    with events() as found:
        trainer(_background()).fit(momentum(), data())
        assert [each for each in found if each != "averaged"] == ["resumed", "aborted"]


def the_background_lets_windows_be() -> None:
    trainer(_background(), accumulate_grad_batches=3).fit(momentum(), data())


def the_background_is_left_alone_after_a_failure() -> None:
    left: list[Any] = []

    class Fails(Trained):
        def on_train_batch_end(self, *args: Any) -> None:
            left.append(self.trainer.strategy.model.bagua_algorithm)
            raise KeyError("on purpose")

    with events() as found:
        with suppress(KeyError):
            trainer(_background()).fit(Fails(), data())
        ended = "aborted" in found
    # Bagua would leave it running until the process ends.
    left[0].aborted = True
    left[0].begun.set()
    left[0].future.result(10)
    assert not ended


def steps_on_the_host_are_refused() -> None:
    with refused(UnsupportedError, "AdamW", "capturable=True", "warmup_steps=0"):
        trainer(_background(warmup_steps=2)).fit(adamw(), data())
    with refused(UnsupportedError, "Adagrad", "capturable=True"):
        trainer(_background(warmup_steps=2)).fit(Trained(partial(Adagrad, lr=0.1)), data())
    for module in (momentum(), Trained(partial(AdamW, lr=0.02, fused=True))):
        trainer(_background(warmup_steps=2)).fit(module, data())


# --- refusals -------------------------------------------------------------------------------------------


def lbfgs_is_refused() -> None:
    with refused(UnsupportedError, "LBFGS", "single_device"):
        trainer().fit(Trained(partial(LBFGS, lr=0.1)), data())


def a_group_is_refused() -> None:
    found = []

    class Asks(Trained):
        def on_train_start(self) -> None:
            strategy = self.trainer.strategy
            for name in ("reduce", "all_gather"):
                with refused(UnsupportedError, f"{name}(group=", "new_group"):
                    getattr(strategy, name)(torch.ones(1), group=[0])
                found.append(name)

    trainer().fit(Asks(), data())
    assert found == ["reduce", "all_gather"]


def the_processor_is_refused() -> None:
    with refused(UnsupportedError, "'cpu'", "NCCL", "strategy='ddp'"):
        trainer(accelerator="cpu").fit(Regression(), data())


def devices_other_than_the_local_ranks_are_refused() -> None:
    chosen = [torch.device("cpu", 1)]
    for options in ({"devices": [1]}, {"devices": "auto", "own": {"parallel_devices": chosen}}):
        with refused(UnsupportedError, "cpu:1", "local ranks", "CUDA_VISIBLE_DEVICES", "devices=1"):
            trainer(**options).fit(momentum(), data())


def other_accelerators_are_refused() -> None:
    with kept(plugin.ACCELERATORS), refused(UnsupportedError, "'bagua_sim'", "strategy='ddp'"):
        plugin.ACCELERATORS.discard("bagua_sim")
        trainer().fit(momentum(), data())


def intervals_and_windows_are_refused() -> None:
    algorithm = Decentralized(communication_interval=2)
    with refused(UnsupportedError, "communication_interval=2", "accumulate_grad_batches=2"):
        trainer(algorithm, accumulate_grad_batches=2).fit(momentum(), data())


def pairs_of_an_odd_number_are_refused() -> None:
    for hierarchical, words in ((True, "machines"), (False, "processes")):
        algorithm = Decentralized(hierarchical=hierarchical, peer_selection_mode="shift_one")
        with refused(UnsupportedError, "shift_one", words):
            trainer(algorithm).fit(momentum(), data())


HELPERS = {
    *(
        "trainer",
        "alone",
        "data",
        "fitted",
        "apart",
        "refused",
        "kept",
        "events",
        "adamw",
        "momentum",
        "qadam",
    ),
    *("_resumed", "_background"),
}
CHECKS = [
    value
    for name, value in list(globals().items())
    if getattr(value, "__module__", "") == __name__
    and type(value).__name__ == "function"
    and name not in HELPERS
]
