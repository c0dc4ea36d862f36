"""How a profiler comes to see a run, so that a run without one pays nothing.

What a loop calls again and again is looked up once. There `watched` puts a measured function in its place, and
without a profiler the function itself. The strategy's methods, which are looked up at each call, are covered by
measured ones for the time of the run.

The actions: `run_training_epoch`, `run_training_batch`, `STAGE_dataloader_next` (train, val, test, predict),
`batch_to_device`, `save_checkpoint`, `[Callback]Class.hook`, `[LightningModule]Class.hook`,
`[LightningDataModule]Class.hook`, and `[Strategy]Class.method` for the methods in `STRATEGY_METHODS` and the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import nn

    from torchrelay.profilers.profiler import Profiler
    from torchrelay.strategies.strategy import Strategy

Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")

STRATEGY_METHODS = (
    "setup",
    "load_checkpoint",
    "save_checkpoint",
    "training_step",
    "backward",
    "finalize_gradients",
    "clip_gradients",
    "optimizer_step",
    "zero_grad",
)
"""Measured as `[Strategy]Class.NAME`; `evaluation_step` is too, under the name of the step that it runs."""


def watched(profiler: Profiler | None, action: str, function: Function) -> Function:
    """A function whose calls are measured as an action; the function itself without a profiler."""
    if profiler is None:
        return function
    profile = profiler.profile

    def call(*args: Any, **kwargs: Any) -> Any:
        with profile(action):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def watched_method(
    profiler: Profiler | None, kind: str, owner: object, name: str
) -> Callable[..., Any]:
    """An object's method, measured as `[KIND]Class.NAME`; the method itself without a profiler."""
    method: Callable[..., Any] = getattr(owner, name)
    return watched(profiler, f"[{kind}]{type(owner).__name__}.{name}", method)


def watched_items(profiler: Profiler | None, action: str, items: Iterator[Item]) -> Iterator[Item]:
    """An iterator that measures as an action how long each item takes to come, and the end after the last.

    Without a profiler, the iterator itself.
    """
    return items if profiler is None else _measured(profiler, action, items)


def _measured(profiler: Profiler, action: str, items: Iterator[Item]) -> Iterator[Item]:
    try:
        while True:
            with profiler.profile(action):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
    finally:
        _close(items)


def _close(items: Iterator[Any]) -> None:
    """Close a generator that is left early, as its own loop would."""
    close = getattr(items, "close", None)
    if close is not None:
        close()


@contextmanager
def watching(
    profiler: Profiler | None,
    strategy: Strategy,
    module: nn.Module,
    stage: str,
    log_dir: str | None,
) -> Iterator[None]:
    """Let a profiler see the run inside, and report after it unless it failed; free without a profiler.

    Args:
        profiler: sees the run.
        strategy: its methods are measured; its ranks are known.
        module: the user's module.
        stage: "fit", "validate", "test" or "predict".
        log_dir: the run's folder.
    """
    if profiler is None:
        yield
        return
    profiler.connect(module, strategy.global_rank)
    try:
        profiler.setup(stage, strategy.local_rank, log_dir)
        with covered(strategy, measured_methods(profiler, strategy)):
            yield
        profiler.describe()
    finally:
        profiler.teardown(stage)


def measured_methods(profiler: Profiler, strategy: Strategy) -> dict[str, Callable[..., Any]]:
    """The strategy's methods, measured, by name."""
    methods = {
        name: watched_method(profiler, "Strategy", strategy, name) for name in STRATEGY_METHODS
    }
    evaluate, profile = strategy.evaluation_step, profiler.profile
    owner = f"[Strategy]{type(strategy).__name__}"

    def evaluation_step(name: str, *args: Any) -> Any:
        with profile(f"{owner}.{name}"):
            return evaluate(name, *args)

    return {**methods, "evaluation_step": evaluation_step}


@contextmanager
def covered(instance: object, functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Let an instance have functions in the place of methods of these names; put back what it had."""
    own = vars(instance)
    before = {name: own[name] for name in functions if name in own}
    own.update(functions)
    try:
        yield
    finally:
        for name in functions:
            own.pop(name, None)
        own.update(before)
