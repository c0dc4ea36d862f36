"""Several processes come to the numbers of one that reads the same batches whole.

One program trains every problem, and one problem in every precision.
"""

from __future__ import annotations

import torch

from torchrelay.errors import UnsupportedError
from torchrelay.plugin.specs import Capability, Support
from torchrelay.testing import precisions
from torchrelay.testing.case import Case
from torchrelay.testing.checks import CheckFailed, CheckRefused, Program, check, expect, skip
from torchrelay.testing.comparing import difference
from torchrelay.testing.numerics_problems import UNUSED, UNUSED_AS_ZERO, replicas
from torchrelay.testing.training import (
    Raised,
    judge,
    program_for,
    reference,
    require_exact,
    results,
)


def _program(case: Case) -> Program:
    """What the subject runs; a backend's own precisions among them."""
    taken = precisions.precisions(case)
    names = " ".join(dict.fromkeys([*taken, *map(precisions.of_reference, taken)]))
    return program_for(case, "torchrelay.testing.numerics_problems:train", names=names)


def _judge(case: Case, name: str) -> None:
    judge(case, _program(case), name)


@check(
    why="results on several devices are those of one device, or nobody can compare two runs",
    advice="average gradients over ranks by mean, before the update, and begin with the same weights on every rank",
)
def sgd(case: Case) -> None:
    """Plain arithmetic, with momentum: a sum in place of a mean is seen at once."""
    _judge(case, "sgd")


@check(
    why="most models are trained by AdamW, whose state and whose decay of weights are the optimizer's own",
    advice="let the user's optimizer make the update, or translate each of its options; weight decay is decoupled",
)
def adamw(case: Case) -> None:
    """AdamW with weight decay."""
    _judge(case, "adamw")


@check(
    why="language models share embedding and output weights, and trained apart they are another model",
    advice="move the module as a whole, or tie shared parameters again after moving them",
)
def tied_weights(case: Case) -> None:
    """One parameter under two names."""
    _judge(case, "tied_weights")


@check(
    why="whoever fine-tunes freezes layers, and a backend that trains them anyway spoils the model unseen",
    advice="leave parameters without requires_grad out of gradients, averaging and updates",
)
def frozen_parameters(case: Case) -> None:
    """The first layer stays as it is."""
    _judge(case, "frozen_parameters")


@check(
    why="batch norm trains on each rank's own statistics, and ranks that evaluate with different ones disagree",
    advice="average gradients as ever, and give every rank rank 0's buffers when evaluation begins",
)
def batch_norm(case: Case) -> None:
    """Weights are those of copies that are trained by hand; every rank evaluates with the same buffers."""
    require_exact(case)
    if case.ranks < case.subject.devices * case.subject.num_nodes:
        skip(
            "one process drives several devices, and how it splits a batch between them is its own affair"
        )
    found = results(case, _program(case), "batch_norm")
    name = precisions.best(case)
    dtype = torch.float64 if name == "64-true" else torch.float32
    expected = replicas(case.ranks, dtype)
    weights = {each: found[0]["state"][each] for each in expected}
    seen = difference(weights, expected, precisions.tolerance(name))
    expect(not seen, f"weights are not those of {case.ranks} copies with the mean gradient: {seen}")
    statistics = [each["notes"].get("statistics") for each in found]
    for rank, mine in enumerate(statistics):
        seen = difference(mine, statistics[0])
        expect(not seen, f"rank {rank} evaluates with other statistics than rank 0: {seen}")


@check(
    why="small batches on each device make batch norm noisy, which is what sync_batchnorm=True is for",
    advice="convert the module's batch norm in `place` when self.sync_batchnorm, before anything wraps it",
    capability=Capability.SYNC_BATCHNORM,
    min_ranks=2,
)
def sync_batchnorm(case: Case) -> None:
    """Weights and statistics are those of one process that reads whole batches."""
    _judge(case, "sync_batchnorm")


@check(
    why="data sets do not divide by the batch size, and the last batch belongs to them",
    advice="neither drop nor fill up the last batch; average gradients with it as with the others",
)
def uneven_last_batch(case: Case) -> None:
    """Each rank's last batch is half as large."""
    _judge(case, "uneven_last_batch")


@check(
    why="accumulation stands for a larger batch: the numbers are those of the sum over the window",
    advice="divide each loss once (whoever keeps Plan.loss_divisor does), and average no gradient twice; the last "
    "window of an epoch may be a short one",
    capability=Capability.GRADIENT_ACCUMULATION,
)
def accumulation(case: Case) -> None:
    """Windows of three batches, of seven."""
    _judge(case, "accumulation")


@check(
    why="the limit is on the norm of all gradients of an update; on those of one rank or one shard it is another limit",
    advice="clip in clip_gradients, which comes after the averaging, or keep Plan.clip in negotiate and really clip",
    capability=Capability.CLIP_BY_NORM,
)
def clip_by_norm(case: Case) -> None:
    """A limit that every update exceeds."""
    _judge(case, "clip_by_norm")


@check(
    why="the limit is on each element of the averaged gradient",
    advice="clip in clip_gradients, which comes after the averaging, or keep Plan.clip in negotiate and really clip",
    capability=Capability.CLIP_BY_VALUE,
)
def clip_by_value(case: Case) -> None:
    """A limit that most elements exceed."""
    _judge(case, "clip_by_value")


@check(
    why="what watches or changes gradients before the update sees those that the update will take",
    advice="let .grad be averaged and unscaled on every rank when finalize_gradients returns, or declare "
    "GRADIENTS_VISIBLE unsupported",
    capability=Capability.GRADIENTS_VISIBLE,
)
def gradients_visible(case: Case) -> None:
    """The gradients of each update, on every rank."""
    require_exact(case)
    program = _program(case)
    expected = reference(case, program, "gradients_visible")["notes"]
    for rank, each in enumerate(results(case, program, "gradients_visible")):
        seen = difference(each["notes"], expected, precisions.tolerance(precisions.best(case)))
        expect(not seen, f"rank {rank} sees other gradients than one process: {seen}")


@check(
    why="branches that take part in some steps only train wrongly, or hang, where a backend waits for every gradient",
    advice="count a missing gradient as zero where another rank has one, leave it None where none has, or declare "
    "UNUSED_LEFT_OUT unsupported; or raise an error that says how unused parameters are allowed",
)
def unused_parameters(case: Case) -> None:
    """Layers that are used in every third batch, and by some ranks; an error that says so will do as well.

    One process, to compare with, has gradients of zero where the strategy declares that nothing is left out.
    """
    found = case.run(_program(case)).left(UNUSED)
    if any(isinstance(each, Raised) and "unused" in each.message for each in found):
        return
    left_out = case.capabilities[Capability.UNUSED_LEFT_OUT].support is Support.FULL
    judge(case, _program(case), UNUSED, like=UNUSED if left_out else UNUSED_AS_ZERO)


@check(
    why="a precision that is declared and not kept is a wrong result, or a slow one, under its name",
    advice="go through the precision: convert_module, wrap_step, backward, unscale and optimizer_step or update; "
    "declare in Capabilities.precisions which names the backend takes",
)
def each_precision(case: Case) -> None:
    """Weights of its format, as near to those of one process as the format allows."""
    require_exact(case)
    apart = {name: _apart(case, name) for name in precisions.precisions(case)}
    refused = {name for name, seen in apart.items() if _is_refused(case, name, seen)}
    wrong = [f"{name}: {seen}" for name, seen in apart.items() if seen and name not in refused]
    expect(not wrong, "; ".join(wrong))
    if refused:
        conditions = (f"{name}: {precisions.condition(case, name)}" for name in sorted(refused))
        raise CheckRefused("; ".join(conditions))


def _is_refused(case: Case, name: str, seen: str) -> bool:
    """Whether a precision was refused by the words of the condition under which it is declared."""
    condition = precisions.condition(case, name)
    return bool(condition) and UnsupportedError.__name__ in seen and condition in seen


def _apart(case: Case, name: str) -> str:
    """How a precision's weights differ from one process's; "" if they do not."""
    program, like = _program(case), precisions.of_reference(name)
    try:
        got = results(case, program, f"precision-{name}")[0]["state"]
    except CheckFailed as error:
        return str(error)
    expected = reference(case, program, f"precision-{like}")["state"]
    formats = [sorted({str(each.dtype) for each in state.values()}) for state in (got, expected)]
    if name == like and formats[0] != formats[1]:
        return f"weights are {', '.join(formats[0])} instead of {', '.join(formats[1])}"
    return difference(got, expected, precisions.tolerance(name))
