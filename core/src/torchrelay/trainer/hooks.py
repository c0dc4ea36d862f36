"""Who listens to which hook, found once, so that a hook nobody overrides costs one test for None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torchrelay.module import LightningModule, ModuleHooks, is_overridden
from torchrelay.profilers.watching import watched_method

if TYPE_CHECKING:
    from torchrelay.profilers.profiler import Profiler
    from torchrelay.trainer.trainer import Trainer

Listener = Callable[..., Any]


class Hooks:
    """Calls a hook on the callbacks, in their order, and then on the module.

    Args:
        trainer: passed to callbacks.
        module: the module, and passed to callbacks.
        callbacks: in the order in which they are called.
        watcher: measures each call; None where nothing is measured.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        callbacks: Sequence[Any],
        watcher: Profiler | None = None,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._callbacks = callbacks
        self._watcher = watcher
        self._found: dict[str, Listener | None] = {}

    def get(self, name: str) -> Listener | None:
        """One function that calls all listeners of a hook, without trainer and module; None if nobody listens."""
        if name not in self._found:
            self._found[name] = self._combine(name)
        return self._found[name]

    def call(self, name: str, *args: Any) -> None:
        """Call all listeners of a hook."""
        listener = self.get(name)
        if listener is not None:
            listener(*args)

    def _combine(self, name: str) -> Listener | None:
        trainer, module, watcher = self._trainer, self._module, self._watcher
        callbacks = [
            watched_method(watcher, "Callback", callback, name)
            for callback in self._callbacks
            if is_overridden(name, callback, callback_base(callback))
        ]
        own: Listener | None = None
        if is_overridden(name, module, ModuleHooks):
            own = watched_method(watcher, "LightningModule", module, name)

        def call(*args: Any) -> Any:
            for listener in callbacks:
                listener(trainer, module, *args)
            return own(*args) if own is not None else None

        return call if callbacks or own is not None else None


def is_kind(callback: Any, *names: str) -> bool:
    """Whether a callback is of a class of that name, of whichever library."""
    return any(kind.__name__ in names for kind in type(callback).__mro__)


def callback_base(callback: Any) -> type:
    """The class `Callback` that a callback's class comes from, whose hooks do nothing: torchrelay's or Lightning's.

    Known by its name, so that Lightning need not be imported to tell; `object` if it comes from none.
    """
    kinds = (kind for kind in reversed(type(callback).__mro__) if kind.__name__ == "Callback")
    return next(kinds, object)
