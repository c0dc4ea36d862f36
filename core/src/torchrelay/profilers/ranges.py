"""Ranges in a trace that bear the names of a model's submodules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.profiler import record_function


class _Range:
    """Marks the forward of a submodule; a copy, which a copy of the module has, begins with nothing open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._open: list[record_function] = []

    def begin(self, module: nn.Module, inputs: Any) -> None:
        """Begin, before the forward; a submodule may call itself."""
        self._open.append(record_function(self.name))
        self._open[-1].__enter__()  # type: ignore[no-untyped-call]

    def end(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        """End, after the forward, or its exception."""
        if self._open:
            self._open.pop().__exit__(None, None, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "_open": []}


@contextmanager
def named_ranges(module: nn.Module) -> Iterator[None]:
    """Mark the forward of each submodule as a range `[module]CLASS: NAME`."""
    with ExitStack() as stack:
        for name, part in module.named_modules():
            if name:
                mark = _Range(f"[module]{type(part).__name__}: {name}")
                stack.callback(part.register_forward_pre_hook(mark.begin).remove)
                stack.callback(part.register_forward_hook(mark.end, always_call=True).remove)
        yield
