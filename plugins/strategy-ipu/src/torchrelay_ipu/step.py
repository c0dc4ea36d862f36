"""TracedStep: a step of the user's module as a model of tensors alone, which Python runs once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from torchrelay.errors import UnsupportedError
from torchrelay.tree import flatten
from torchrelay_ipu import vendor
from torchrelay_ipu.plugin import TRACED_ONCE


class NoIndex:
    """Stands for `batch_idx`, which a traced step cannot follow: any use of it is refused."""


def _untraced() -> UnsupportedError:
    return UnsupportedError(f"batch_idx in a step on an IPU: {TRACED_ONCE}")


def _refuse(*_: Any) -> Any:
    raise _untraced()


_USES = (
    "index int float bool hash eq ne lt le gt ge str format neg pow rpow divmod "
    "add radd sub rsub mul rmul mod rmod floordiv rfloordiv truediv rtruediv"
)
for _name in _USES.split():
    setattr(NoIndex, f"__{_name}__", _refuse)


@dataclass(frozen=True)
class Logged:
    """A call of `log`, whose value comes from the device.

    Attributes:
        name: of the metric.
        at: place among the outputs; None for a number, which is the same in every batch.
        value: that number.
        options: the other arguments.
    """

    name: str
    at: int | None
    value: Any
    options: dict[str, Any]


@dataclass
class Trace:
    """What is learned of a step while Python runs it.

    Attributes:
        put: makes the step's result of the outputs.
        types: of the outputs.
        dims: of the outputs, in one micro-batch.
        logged: what the step logs.
    """

    put: Callable[[list[Any]], Any] = list
    types: list[torch.dtype] = field(default_factory=list)
    dims: list[int] = field(default_factory=list)
    logged: list[Logged] = field(default_factory=list)


class TracedStep(nn.Module):
    """A model whose inputs and outputs are tensors.

    Args:
        module: the user's.
        step: takes a batch and its index, and runs in the precision's arithmetic.
        rebuild: puts tensors into a batch of the user's form.
        scale: what the loss is multiplied by before it is differentiated; None where nothing is.

    Attributes:
        trace: what was learned when Python ran; PopTorch traces a shallow copy of this object, which shares it.
    """

    def __init__(
        self,
        module: nn.Module,
        step: Callable[..., Any],
        rebuild: Callable[[list[Any]], Any],
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.step = step
        self.rebuild = rebuild
        self.scale = scale
        self.trace = Trace()

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Run the step; a tensor for each of its outputs and logged values, and the marked loss."""
        outputs: list[torch.Tensor] = []
        self.trace.logged.clear()
        with self._recording(outputs):
            found = self.step(self.rebuild(list(tensors)), NoIndex())
        recorded = len(outputs)
        if self.scale is not None:
            found = _with_loss(found)
        leaves, rebuild = flatten(found)
        places = {at: recorded + n for n, at in enumerate(_tensors(leaves))}
        outputs += [leaves[at] for at in places]
        self.trace.put = lambda values: rebuild(
            [values[places[at]] if at in places else leaf for at, leaf in enumerate(leaves)]
        )
        if self.scale is not None:
            outputs.append(vendor.mark_loss(_loss(found) * self.scale))
        if not outputs:
            outputs.append(tensors[0].reshape(-1)[:1] * 1)
        self.trace.types = [each.dtype for each in outputs]
        self.trace.dims = [each.dim() for each in outputs]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    @contextmanager
    def _recording(self, outputs: list[torch.Tensor]) -> Iterator[None]:
        """Let what the module logs become outputs; `log` of this one object is another meanwhile."""
        module: Any = self.module
        if not hasattr(module, "log"):
            yield
            return

        def log(name: str, value: Any, *args: Any, **options: Any) -> None:
            options |= zip(_after(type(module).log, 3), args, strict=False)
            if not isinstance(value, (torch.Tensor, int, float)):
                raise UnsupportedError(
                    f"log({name!r}, {type(value).__name__}(...)) in a step on an IPU: an object would collect once, "
                    "when the step is traced; log the tensor itself"
                )
            at = None
            if isinstance(value, torch.Tensor):
                at = len(outputs)
                outputs.append(value.detach().reshape(()))
            self.trace.logged.append(Logged(name, at, value if at is None else None, options))

        def log_dict(dictionary: Any, *args: Any, **options: Any) -> None:
            options |= zip(_after(type(module).log_dict, 2), args, strict=False)
            for name, value in dictionary.items():
                log(name, value, **options)

        mine = {"log": log, "log_dict": log_dict}
        users = {name: module.__dict__[name] for name in mine if name in module.__dict__}
        try:
            module.__dict__.update(mine)
            yield
        finally:
            for name in mine:
                module.__dict__.pop(name, None)
            module.__dict__.update(users)


def _after(method: Callable[..., Any], number: int) -> list[str]:
    """The names of a method's parameters, without the first ones."""
    return list(inspect.signature(method).parameters)[number:]


def _tensors(leaves: list[Any]) -> list[int]:
    return [at for at, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]


def _with_loss(found: Any) -> Any:
    """What a training step returned, which has to have a loss.

    Raises:
        UnsupportedError: it has none.
    """
    loss = found.get("loss") if isinstance(found, dict) else found
    if loss is None:
        raise UnsupportedError(f"training_step without a loss on an IPU: {TRACED_ONCE}")
    return found


def _loss(found: Any) -> torch.Tensor:
    loss: torch.Tensor = found["loss"] if isinstance(found, dict) else found
    return loss
