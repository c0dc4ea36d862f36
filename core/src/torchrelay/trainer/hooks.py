"""Who listens to which hook, found once, so that a hook nobody overrides costs one test for None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torchrelay.callbacks.callback import Callback
from torchrelay.module import LightningModule, ModuleHooks, is_overridden

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer

Listener = Callable[..., Any]


class Hooks:
    """Calls a hook on the callbacks, in their order, and then on the module.

    Args:
        trainer: passed to callbacks.
        module: the module, and passed to callbacks.
        callbacks: in the order in which they are called.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, callbacks: Sequence[Callback]
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._callbacks = callbacks
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
        callbacks = [
            getattr(callback, name)
            for callback in self._callbacks
            if is_overridden(name, callback, Callback)
        ]
        own = (
            getattr(self._module, name) if is_overridden(name, self._module, ModuleHooks) else None
        )
        trainer, module = self._trainer, self._module

        def call(*args: Any) -> Any:
            for listener in callbacks:
                listener(trainer, module, *args)
            return own(*args) if own is not None else None

        return call if callbacks or own is not None else None
