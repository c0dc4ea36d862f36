"""Batches as PopTorch takes them: whole windows along the first axis, of the shapes that were compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from torchrelay.errors import ConfigurationError
from torchrelay.tree import flatten


class Window(list[Any]):
    """Batches of the user's that one call of the device takes."""


class Combined:
    """Windows of a loader's batches; the last one may be shorter.

    Args:
        loader: the user's.
        together: batches in a window.
        whole: refuse a shorter one.
    """

    def __init__(self, loader: Iterable[Any], together: int, *, whole: bool) -> None:
        self.loader: Any = loader
        self.together = together
        self.whole = whole

    def __len__(self) -> int:
        return math.ceil(len(self.loader) / self.together)

    def __iter__(self) -> Iterator[Window]:
        rest = iter(self.loader)
        while window := Window(islice(rest, self.together)):
            if self.whole:
                check_whole(len(window), self.together)
            yield window


def check_whole(number: int, together: int) -> None:
    """Refuse a number of batches that makes no whole calls.

    Raises:
        ConfigurationError: several updates are made in a call, and a short one would be counted wrongly.
    """
    if number % together:
        raise ConfigurationError(
            f"{number} training batches cannot be taken {together} at a time (device_iterations times "
            f"accumulate_grad_batches); change their number, as by limit_train_batches={number - number % together}"
        )


@dataclass(frozen=True)
class Form:
    """What a call was compiled for.

    Attributes:
        number: batches of the user's in it.
        shapes: of each tensor of one batch.
        types: of each tensor.
        constants: what else is in a batch, as text: it is compiled in.
    """

    number: int
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[torch.dtype, ...]
    constants: str

    def __str__(self) -> str:
        return f"{self.number} x ({', '.join(map(str, self.shapes))})"


@dataclass(frozen=True)
class Call:
    """A window, put together.

    Attributes:
        form: its form.
        tensors: of all batches, along the first axis.
        rebuild: puts tensors into a batch of the user's form.
        rows: rows of one batch of the user's.
    """

    form: Form
    tensors: list[torch.Tensor]
    rebuild: Callable[[list[Any]], Any]
    rows: int


def put_together(window: list[Any], replicas: int) -> Call:
    """Put a window's batches together.

    Args:
        window: batches of the user's, of the same form.
        replicas: among which each batch is divided.

    Raises:
        ConfigurationError: no tensor, a batch of another form than the first, or one that cannot be divided; says which
            tensor and which axis.
    """
    flat = [flatten(batch) for batch in window]
    places = [at for at, leaf in enumerate(flat[0][0]) if isinstance(leaf, torch.Tensor)]
    if not places:
        raise ConfigurationError("a batch without a tensor cannot be given to an IPU")
    rows = [[leaves[at] for at in places] for leaves, _ in flat]
    for number, tensors in enumerate(rows[1:], 1):
        _check_same(rows[0], tensors, f"batch {number} of a window of {len(window)}")
    constants = {repr(_rest(leaves, places)) for leaves, _ in flat}
    if len(constants) > 1:
        raise ConfigurationError(
            "a value in a batch that is no tensor differs from batch to batch, and a step on an IPU has it compiled "
            "in; make it a tensor"
        )
    for at, tensor in enumerate(rows[0]):
        _check_divides(tensor, at, replicas)
    leaves, rebuild = flat[0]

    def fill(values: list[Any]) -> Any:
        filled = list(leaves)
        for at, value in zip(places, values, strict=True):
            filled[at] = value
        return rebuild(filled)

    form = Form(
        len(window),
        tuple(tuple(tensor.shape) for tensor in rows[0]),
        tuple(tensor.dtype for tensor in rows[0]),
        constants.pop(),
    )
    tensors = [
        torch.cat(parts) if len(window) > 1 else parts[0] for parts in zip(*rows, strict=True)
    ]
    return Call(form, tensors, fill, rows[0][0].shape[0])


@dataclass
class Forms:
    """The forms of a step's calls: that of the first one, and once in an epoch, at its end, a smaller one.

    Attributes:
        stage: of the step, for messages.
        whole: the form of the first call; None before it.
        partial: whether that call was within an epoch that had begun before, and may have been a smaller one.
        short: the smaller form that ended the epoch; None before it.
    """

    stage: str
    whole: Form | None = None
    partial: bool = False
    short: Form | None = None

    def check(self, given: Form, batch_idx: int) -> None:
        """Refuse a call that cannot be had without compiling the step again and again.

        Raises:
            ConfigurationError: another form, or any after a smaller one.
        """
        if batch_idx == 0:
            self.short = None
        if self.whole is None or (self.partial and batch_idx == 0):
            self.whole, self.partial = given, batch_idx > 0
        check_form(self.whole, given, self.stage)
        if self.short is not None:
            raise _changed(
                f"{self.stage}: batches of {given} follow smaller ones of {self.short} in an epoch, of which the last "
                "call alone may be smaller"
            )
        if given != self.whole:
            self.short = given


def check_form(compiled: Form, given: Form, stage: str) -> None:
    """Refuse what the compiled step cannot take; only rows may be fewer.

    Raises:
        ConfigurationError: says which tensor, which axis, and what was expected.
    """
    if len(compiled.shapes) != len(given.shapes):
        raise _changed(
            f"{stage}: {len(given.shapes)} tensors in a batch, and {len(compiled.shapes)} expected"
        )
    if compiled.constants != given.constants:
        raise _changed(f"{stage}: a value that is no tensor is another one than in the first batch")
    for at, (expected, shape) in enumerate(zip(compiled.shapes, given.shapes, strict=True)):
        if compiled.types[at] is not given.types[at]:
            raise _changed(
                f"{stage}: tensor {at} is of {given.types[at]}, and {compiled.types[at]} is expected"
            )
        _check_axes(expected, shape, f"{stage}: tensor {at}")


def _check_axes(expected: tuple[int, ...], shape: tuple[int, ...], what: str) -> None:
    if len(expected) != len(shape):
        raise _changed(f"{what} has {len(shape)} axes, and {len(expected)} are expected")
    for axis, (size, found) in enumerate(zip(expected, shape, strict=True)):
        if found > size or (axis and found != size):
            raise _changed(f"{what}: axis {axis} has size {found}, and {size} is expected")


def _check_same(first: list[Any], other: list[Any], what: str) -> None:
    if len(first) != len(other):
        raise _changed(f"{what}: {len(other)} tensors, and {len(first)} are expected")
    for at, (one, two) in enumerate(zip(first, other, strict=True)):
        if one.dtype is not two.dtype:
            raise _changed(f"{what}: tensor {at} is of {two.dtype}, and {one.dtype} is expected")
        if one.dim() != two.dim():
            raise _changed(
                f"{what}: tensor {at} has {two.dim()} axes, and {one.dim()} are expected"
            )
        for axis, (size, found) in enumerate(zip(one.shape, two.shape, strict=True)):
            if size != found:
                raise _changed(
                    f"{what}: tensor {at}: axis {axis} has size {found}, and {size} is expected"
                )


def _check_divides(tensor: torch.Tensor, at: int, replicas: int) -> None:
    if not tensor.dim():
        raise ConfigurationError(
            f"tensor {at} of a batch has no axis, and a step on an IPU divides batches along the first; give it one"
        )
    if tensor.shape[0] % replicas:
        raise ConfigurationError(
            f"tensor {at} of a batch: axis 0 has size {tensor.shape[0]}, and a multiple of {replicas} is expected, "
            "as each batch is divided between replicas and iterations; change batch_size, or give the DataLoader "
            "drop_last=True"
        )


def _changed(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what}; shapes are compiled on an IPU: pad to one size, and give the DataLoader drop_last=True"
    )


def _rest(leaves: list[Any], places: list[int]) -> list[Any]:
    return [leaf for at, leaf in enumerate(leaves) if at not in places]
