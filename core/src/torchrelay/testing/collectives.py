"""Ranks can talk to one another: every operation, on everything that it may be given.

One program makes all calls; each check reads the results of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchrelay.testing import collective_calls as calls
from torchrelay.testing.case import Case
from torchrelay.testing.checks import Program, check, expect
from torchrelay.testing.comparing import difference

TALK = Program("torchrelay.testing.collective_calls:talk", timeout=120)


def _alike(case: Case, name: str, expected: Any, tolerance: float = 1e-6) -> None:
    """Compare what each rank got with what all should have."""
    _by_rank(case, name, [expected] * case.ranks, tolerance)


def _by_rank(case: Case, name: str, expected: Sequence[Any], tolerance: float = 1e-6) -> None:
    """Compare what each rank got with what it should have."""
    for rank, (got, wanted) in enumerate(zip(case.results(name), expected, strict=True)):
        seen = difference(got, wanted, tolerance)
        expect(not seen, f"rank {rank} of {case.ranks}: {seen}")


def _stacked(case: Case, make: Callable[[int], torch.Tensor]) -> torch.Tensor:
    return torch.stack([make(rank).double() for rank in range(case.ranks)])


def _operations(each: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "mean": each.mean(0),
        "sum": each.sum(0),
        "min": each.amin(0),
        "max": each.amax(0),
        "product": each.prod(0),
    }


@check(
    why="losses and metrics are averaged, summed and compared over ranks",
    advice="make Collectives.reduce combine tensors element by element, by each of its five operations",
    program=TALK,
)
def reduces_floats(case: Case) -> None:
    """Each operation on 32-bit floats."""
    expected = _operations(_stacked(case, calls.floats))
    _alike(case, "floats", expected)


@check(
    why="counts are integers of any width, and a wrapped sum or a truncated mean is a wrong figure without an error",
    advice="compute integers in 64 bits, return sums and products as int64, and let a mean keep its fraction",
    program=TALK,
)
def reduces_integers(case: Case) -> None:
    """Each operation on 8-bit integers; with one process there is nothing to convert."""
    expected = _operations(_stacked(case, calls.integers))
    _alike(case, "integers", expected)


@check(
    why="metrics under bf16 are combined too, and some libraries refuse the format or lose its type",
    advice="compute bf16 in 32 bits, convert the result back, and keep the dtype",
    program=TALK,
)
def reduces_bf16(case: Case) -> None:
    """Each operation on bf16."""
    expected = _operations(_stacked(case, calls.floats))
    _alike(case, "bf16", expected, tolerance=1e-2)
    for rank, got in enumerate(case.results("bf16")):
        kinds = {str(value.dtype) for value in got.values()}
        expect(kinds == {"torch.bfloat16"}, f"rank {rank}: bf16 came back as {sorted(kinds)}")


@check(
    why="a loss is 0-dimensional, and a count is a plain number",
    advice="keep the shape () of a 0-dimensional tensor, and take Python's numbers",
    program=TALK,
)
def reduces_zero_dim(case: Case) -> None:
    """0-dimensional tensors and numbers."""
    n = case.ranks
    total = torch.tensor(sum(rank + 0.5 for rank in range(n)))
    _alike(case, "zero_dim", [total, (n - 1) / 2, n - 0.5])


@check(
    why="masks and flags are combined by min and max, which many libraries do not have for booleans",
    advice="reduce booleans as integers, and return booleans for min (all) and max (any)",
    program=TALK,
)
def reduces_booleans(case: Case) -> None:
    """min, max and sum on booleans."""
    each = _stacked(case, calls.booleans)
    total = each.sum(0)
    expected = {"min": each.amin(0).bool(), "max": each.amax(0).bool()}
    for rank, got in enumerate(case.results("booleans")):
        rest = got if isinstance(got, str) else {op: got[op] for op in expected}
        seen = difference(rest, expected) or difference(got["sum"], total)
        expect(not seen, f"rank {rank} of {case.ranks}: {seen}")
        kinds = {op: str(got[op].dtype) for op in expected}
        expect(set(kinds.values()) == {"torch.bool"}, f"rank {rank}: {kinds}")


@check(
    why="batches and metrics come in dicts, lists, tuples and named tuples of tensors of several formats",
    advice="walk containers with torchrelay.tree.flatten and rebuild the same kinds; group tensors by format",
    program=TALK,
)
def reduces_nested(case: Case) -> None:
    """Containers in one another."""
    ranks = range(case.ranks)
    total = sum(ranks)
    expected = {
        "list": [
            _stacked(case, calls.floats).sum(0),
            _stacked(case, calls.integers).sum(0),
        ],
        "pair": calls.Pair(torch.tensor(total), (float(total), torch.ones(2, 1) * total)),
    }
    _alike(case, "nested", expected)


@check(
    why="what is logged is often the loss itself, which backward still needs",
    advice="copy the input before reducing it in place",
    program=TALK,
)
def leaves_its_input_alone(case: Case) -> None:
    """The input after five reductions."""
    _by_rank(case, "untouched", [calls.floats(rank) for rank in range(case.ranks)])


@check(
    why="all_gather tells ranks apart by position, and predictions and metrics are put together by it",
    advice="return (world_size, *shape) in rank order, for any layout in memory and any type",
    program=TALK,
)
def gathers_in_rank_order(case: Case) -> None:
    """A transposed matrix, a 0-dimensional tensor, booleans and numbers."""
    ranks = range(case.ranks)
    expected = {
        "whole": torch.stack([calls.floats(rank).t() for rank in ranks]),
        "zero": torch.tensor([*ranks]),
        "pair": calls.Pair(
            torch.stack([calls.booleans(rank) for rank in ranks]), torch.tensor([*ranks])
        ),
    }
    _alike(case, "gather", expected)


@check(
    why="contrastive losses differentiate through all_gather, and train on wrong gradients if some are lost",
    advice="with sync_grads give each rank the sum, over all ranks' losses, of the gradients of its slice",
    program=TALK,
)
def gathers_gradients(case: Case) -> None:
    """The gradient of a loss on every rank that weighs each rank's slice differently."""
    losses = sum(range(1, case.ranks + 1))
    expected = [torch.full((2, 3), (rank + 1.0) * losses) for rank in range(case.ranks)]
    _by_rank(case, "gradient", expected)


@check(
    why="None is a value: 'there is no checkpoint' is broadcast as one",
    advice="send whether there is a value with the value, rather than taking None for 'not here'",
    program=TALK,
)
def broadcasts_none(case: Case) -> None:
    """None from rank 0, while the others hold something."""
    _alike(case, "none", None)


@check(
    why="paths, states and settings are broadcast as they are, and not always from rank 0",
    advice="pickle what is broadcast, heed `src`, and let tensors inside arrive on the receiver's device",
    program=TALK,
)
def broadcasts_objects(case: Case) -> None:
    """A nested object from the first rank and from the last."""
    expected = {"first": calls.message(0), "last": calls.message(case.ranks - 1)}
    _alike(case, "objects", expected)


@check(
    why="a model's state is broadcast whole",
    advice="send long messages in parts, or their length first; a fixed buffer cuts them",
    program=TALK,
)
def broadcasts_10_mb(case: Case) -> None:
    """Ten megabytes from rank 0."""
    size = calls.MEGABYTES * 2**20
    _alike(case, "ten_megabytes", ["bytes", size, b"\x01", b"\x01"])


@check(
    why="predictions of different lengths are brought together as objects",
    advice="return every rank's object, in rank order; the default, by broadcasts, does",
    program=TALK,
)
def gathers_objects(case: Case) -> None:
    """A nested object of each rank."""
    expected = [calls.message(rank) for rank in range(case.ranks)]
    _alike(case, "gather_objects", expected)


@check(
    why="rank 0 writes a file while the others wait at a barrier to read it",
    advice="let barrier return only when every rank has called it",
    program=TALK,
    min_ranks=2,
)
def barrier_waits(case: Case) -> None:
    """Rank 0 comes late."""
    for rank, seconds in enumerate(case.results("barrier")):
        expect(isinstance(seconds, float), f"rank {rank}: {seconds}")
        late = math.isclose(seconds, calls.LATE, rel_tol=0.2) or seconds > calls.LATE
        expect(
            late, f"rank {rank} waited {seconds:.2f} s for rank 0, which was {calls.LATE} s late"
        )


@check(
    why="one rank that stops while others go on hangs the run, so every such decision is made together",
    advice="let all() be a minimum and any() a maximum over ranks, and return plain booleans",
    program=TALK,
)
def decides_together(case: Case) -> None:
    """all and any of four votes."""
    alone = case.ranks == 1
    expected = {"yes": (True, True), "no": (False, False)}
    expected |= {"first": (alone, True), "last": (alone, True)}
    _alike(case, "decide", expected)


@check(
    why="a call that is refused on one rank, for its argument, must not put that rank out of step with the others",
    advice="check arguments before anything is sent or counted, and name no operation by how many a rank has issued",
    program=TALK,
    min_ranks=2,
)
def stays_in_step(case: Case) -> None:
    """The last rank has issued one call more, which was refused."""
    total = sum(range(1, case.ranks + 1))
    _alike(case, "in_step", [total, 0])
