"""The loop and the strategy go together: what is counted, who is called when, which data is read.

One program does everything; where numbers matter, one process does it as well.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from torchrelay.plugin.specs import Capability
from torchrelay.testing import precisions
from torchrelay.testing.case import Case
from torchrelay.testing.checks import Program, check, expect
from torchrelay.testing.comparing import difference
from torchrelay.testing.loop_runs import PREDICTED, RATE, UPDATES, rate_of
from torchrelay.testing.models import samples
from torchrelay.testing.training import judge, program_for, reference, require, results


def _program(case: Case) -> Program:
    return program_for(case, "torchrelay.testing.loop_runs:run")


def _judge(case: Case, name: str) -> None:
    judge(case, _program(case), name)


def _tolerance(case: Case) -> float:
    return precisions.tolerance(precisions.best(case))


@check(
    why="max_steps, schedules, logging and checkpoints all go by the number of updates",
    advice="make one update for each optimizer_step, or as many as the negotiated plan's `updates` says",
)
def updates_are_counted(case: Case) -> None:
    """global_step, and the number that the optimizer's own state tells of."""
    expected = {"global_step": 2 * UPDATES, "optimizer": [2 * UPDATES]}
    seen = difference(results(case, _program(case), "updates")[0], expected)
    expect(not seen, f"after {2 * UPDATES} batches: {seen}")


@check(
    why="a scheduler that is stepped twice, or not at all, ruins training without an error",
    advice="leave schedulers to the driver, which steps each as often as it asks for; step none in optimizer_step",
)
def schedulers_step(case: Case) -> None:
    """One that follows updates and one that follows epochs, over two epochs."""
    rate = RATE * 0.9 ** (2 * UPDATES) * 0.5**2
    expected = {"steps": 2 * UPDATES, "epochs": 2, "rate": rate}
    for rank, each in enumerate(results(case, _program(case), "schedulers")):
        seen = difference(each["notes"], expected)
        expect(not seen, f"rank {rank}, after two epochs of {UPDATES} updates: {seen}")


@check(
    why="what the scheduler says is of no use unless the update is made with it",
    advice="let the update read the rate from the optimizer's param_groups; after replacing an optimizer call "
    "swap_optimizer, so that schedulers steer the new one",
)
def learning_rates_arrive(case: Case) -> None:
    """What each update took off a weight whose gradient is 1."""
    weights = [torch.zeros(1, dtype=torch.float64), *results(case, _program(case), "rates")[0]]
    taken = [float(before - after) for before, after in pairwise(weights)]
    expected = [rate_of(update) for update in range(UPDATES)]
    seen = difference(taken, expected, _tolerance(case))
    expect(not seen, f"update {seen}")


@check(
    why="whoever needs more than one loss an update writes the steps by hand",
    advice="let manual_backward, step and zero_grad do what automatic optimization does; average gradients in "
    "finalize_gradients where backward cannot",
    capability=Capability.MANUAL_OPTIMIZATION,
)
def manual_optimization(case: Case) -> None:
    """One optimizer."""
    _judge(case, "manual_optimization")


@check(
    why="adversarial models have two optimizers, each with parameters of its own",
    advice="update and clear the parameters of the optimizer that is asked for, and no others",
    capability=Capability.MULTIPLE_OPTIMIZERS,
)
def several_optimizers(case: Case) -> None:
    """Two that take turns."""
    require(case, Capability.MANUAL_OPTIMIZATION)
    _judge(case, "several_optimizers")


@check(
    why="LBFGS evaluates the loss several times an update, each time at other weights",
    advice="hand the closure on to the optimizer, or declare CLOSURE_OPTIMIZERS unsupported",
    capability=Capability.CLOSURE_OPTIMIZERS,
)
def closure_optimizers(case: Case) -> None:
    """LBFGS."""
    _judge(case, "closure_optimizers")


@check(
    why="modules override optimizer_step to warm up, or to leave updates out",
    advice="make the update in optimizer_step and nowhere else, and clear gradients in zero_grad",
    capability=Capability.CUSTOM_OPTIMIZER_STEP,
)
def custom_optimizer_step(case: Case) -> None:
    """A module that leaves out every third update, and calls the closure alone."""
    _judge(case, "custom_optimizer_step")


@check(
    why="a batch without a loss is to change nothing, not even by momentum",
    advice="when the closure returns None make no update; keep gradients None, rather than zero, after zero_grad",
    capability=Capability.SKIPPED_STEPS,
)
def skipped_steps(case: Case) -> None:
    """training_step returns None for every third batch, on every rank."""
    _judge(case, "skipped_steps")


@check(
    why="modules and callbacks rely on the order of their hooks, which docs/module.md lists",
    advice="call the module's own methods only where the contract says, once; see 'The order of calls' in "
    "docs/contract.md",
)
def hooks_in_order(case: Case) -> None:
    """Every method of a module, over two batches and a validation, as in one process; but for steps that are traced."""
    program = _program(case)
    expected = reference(case, program, "hooks")
    for rank, got in enumerate(results(case, program, "hooks")):
        parts = [
            at for at, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]
        ]
        at = parts[0] if parts else min(len(got), len(expected))
        after = expected[at - 1] if at else "the beginning"
        heard, due = " ".join(got[at : at + 3]), " ".join(expected[at : at + 3])
        expect(
            got == expected,
            f"rank {rank}: after {after} came {heard or 'nothing'} instead of {due or 'nothing'}",
        )


@check(
    why="limits are how a run is tried out, and how long an epoch of endless data is",
    advice="when process_dataloader makes a loader of its own, keep the limit: a limited loader has `loader` and "
    "`at_most`",
)
def limits_hold(case: Case) -> None:
    """limit_train_batches=3, limit_val_batches=0.5 of four, limit_test_batches=1."""
    expected = reference(case, _program(case), "limits")
    for rank, got in enumerate(results(case, _program(case), "limits")):
        seen = difference(got, expected)
        expect(not seen, f"batches that rank {rank} read: {seen}")


@check(
    why="a metric is that of the whole data set, in evaluation mode, and the same on every rank",
    advice="run evaluation_step on the module as it is, in the mode that the driver gave it, under grad_off",
    capability=Capability.EVALUATION,
)
def evaluation(case: Case) -> None:
    """The loss of a module with dropout, over data that divides by ranks and batches."""
    _judge_metrics(case, "evaluation")


@check(
    why="test sets seldom divide by the number of ranks, and a sample that is seen twice, or never, changes the figure",
    advice="neither fill up nor cut evaluation data; no collective of the strategy's may wait in evaluation_step",
    capability=Capability.UNEVEN_EVALUATION,
    min_ranks=2,
)
def uneven_evaluation(case: Case) -> None:
    """Rank 0 has a batch more than the others, of one sample."""
    require(case, Capability.EVALUATION)
    _judge_metrics(case, "uneven_evaluation")


def _judge_metrics(case: Case, name: str) -> None:
    expected = reference(case, _program(case), name)
    for rank, got in enumerate(results(case, _program(case), name)):
        seen = difference(got, expected, _tolerance(case))
        expect(not seen, f"rank {rank}: {seen}")


@check(
    why="predictions are written beside their inputs, in the order of the data set",
    advice="leave samplers and batches of prediction as they come, and gather objects in rank order",
    capability=Capability.PREDICTION,
)
def predictions_in_order(case: Case) -> None:
    """What rank 0 gets, for data that does not divide by ranks and batches."""
    expected = samples(PREDICTED * case.ranks).tensors[0]
    seen = difference(results(case, _program(case), "predictions")[0], expected, _tolerance(case))
    expect(not seen, f"predictions are not in the order of the data: {seen}")


@check(
    why="streams have no length, so the end of an epoch is known only when it comes",
    advice="when process_dataloader makes a loader of its own, let it work without a length and give every batch",
    capability=Capability.ITERABLE_DATASETS,
)
def iterable_datasets(case: Case) -> None:
    """A stream of which each rank gives its share."""
    got = results(case, _program(case), "iterable_datasets")[0]
    expect(got["updates"] == UPDATES, f"{got['updates']} updates of {UPDATES} batches")
    _judge(case, "iterable_datasets")


@check(
    why="averages of weights are often better than the last ones, and are what is kept",
    advice="let the module on each rank have whole, current weights between updates, and take what is put there; "
    "otherwise declare WHOLE_WEIGHTS unsupported",
    capability=Capability.WHOLE_WEIGHTS,
)
def weight_averaging(case: Case) -> None:
    """An exponential moving average, which replaces the weights at the end."""
    _judge(case, "weight_averaging")
