"""LambdaCallback: a callback made of functions."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError


class LambdaCallback(Callback):
    """Calls functions at moments of a run: `LambdaCallback(on_train_start=lambda trainer, pl_module: ...)`.

    Args:
        **functions: by the names of `Callback`'s hooks, with their arguments (without `self`); None is left out.
    """

    def __init__(self, **functions: Callable[..., Any] | None) -> None:
        hooks = [n for n in dir(Callback) if n.startswith("on_") or n in ("setup", "teardown")]
        for name, function in functions.items():
            if name not in hooks:
                near = difflib.get_close_matches(name, hooks, 1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(hooks)}"
                raise ConfigurationError(
                    f"LambdaCallback({name}=...): there is no such hook; {hint}"
                )
            if function is None:
                continue
            if not callable(function):
                raise ConfigurationError(f"LambdaCallback({name}={function!r}): must be a function")
            setattr(self, name, function)
