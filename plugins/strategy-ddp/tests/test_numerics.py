"""Two processes arrive where one does."""

from __future__ import annotations

import copy
import runpy
import sys

import pytest
import torch
from torch.nn.functional import mse_loss

pytestmark = pytest.mark.timeout(200)

EQUAL = (
    "sgd",
    "adamw",
    "sgd, accumulated",
    "adamw, accumulated",
    "sgd, clipped by norm",
    "sgd, clipped by value",
    "adamw, accumulated, clipped by norm",
    "adamw, accumulated, clipped by value",
    "uneven last batch",
    "padded",
    "tied weights",
    "frozen layer",
    "sometimes unused",
    "unused on one rank",
    "updates left out",
    "scheduled",
    "two optimizers by hand",
    "accumulated by hand",
    "static graph",
    "static graph, accumulated",
    "no bucket view",
    "backend and buckets named",
)

# The halves of a batch are summed in another order, in the precision's own arithmetic: a few of its units, which
# 20 steps with momentum add up.
CLOSE = {
    "32-true": 1e-6,
    "64-true": 1e-12,
    "16-true": 4e-3,
    "bf16-true": 3e-2,
    "16-mixed": 1e-3,
    "bf16-mixed": 1e-2,
    "16-mixed, accumulated, clipped": 5e-3,
    "16-mixed by hand": 1e-3,
    "compressed": 2e-3,
}

DTYPES = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}


@pytest.fixture(scope="module")
def outcomes(shared):
    """Of each problem: what one process arrived at, and what each of two did."""
    alone = shared.train("numerics.py", "1", ranks=1, name="numerics-1")
    together = shared.train("numerics.py", "2", name="numerics-2")
    return *alone, *together


def test_every_problem_is_tested(outcomes):
    alone, first, _ = outcomes
    assert alone.keys() == {*EQUAL, *CLOSE}
    assert first.keys() - alone.keys() == {"post-local SGD", "compressed and wrapped", "batch norm"}


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_equal_one_on_the_same_global_batch(outcomes, distance, name):
    alone, *ranks = (outcome[name] for outcome in outcomes)
    assert all(tensor.dtype == torch.float64 for tensor in alone["state"].values())
    for rank in ranks:
        assert rank["steps"] == alone["steps"] == 20
        assert all(rank["agreed"])
        assert distance(rank["state"], alone["state"]) <= 1e-12


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("sgd, accumulated", "sgd"),
        ("sgd, clipped by norm", "sgd"),
        ("sgd, clipped by value", "sgd"),
        ("adamw, accumulated, clipped by norm", "adamw, accumulated"),
        ("adamw, accumulated, clipped by value", "adamw, accumulated"),
        ("uneven last batch", "adamw"),
        ("padded", "uneven last batch"),
        ("scheduled", "sgd"),
        ("updates left out", "sgd"),
    ],
)
def test_what_a_problem_is_about_makes_a_difference(outcomes, distance, name, plain):
    alone = outcomes[0]
    assert distance(alone[name]["state"], alone[plain]["state"]) > 1e-6


@pytest.mark.parametrize("name", CLOSE)
def test_every_precision_in_two_processes(outcomes, distance, name):
    alone, first, second = (outcome[name] for outcome in outcomes)
    precision = name.partition(" ")[0].rstrip(",")
    for tensor in first["state"].values():
        assert torch.isfinite(tensor).all()
        assert tensor.dtype == DTYPES.get(precision, torch.float32)
    assert first["steps"] == second["steps"] == 20
    assert distance(first["state"], second["state"]) == 0
    assert all(first["agreed"])
    assert distance(first["state"], alone["state"]) <= CLOSE[name]
    assert first["scale"] == second["scale"] == alone["scale"]
    assert (first["scale"] is not None) == precision.startswith("16-mixed")


def test_frozen_and_tied_weights_stay_so(outcomes):
    _, first, second = outcomes
    for rank in (first, second):
        tied = rank["tied weights"]["state"]
        assert torch.equal(tied["embed.weight"], tied["back.weight"])
    torch.manual_seed(3)
    untrained = torch.nn.Linear(8, 16).double().weight
    assert torch.equal(first["frozen layer"]["state"]["first.weight"], untrained)


def test_gradients_are_views_into_the_buckets_unless_turned_off(outcomes):
    first = outcomes[1]
    assert first["sgd"]["bucket_view"] is True
    assert first["no bucket view"]["bucket_view"] is False
    assert first["static graph"]["static_graph"] is True
    assert first["sgd"]["static_graph"] is False


def test_post_local_sgd_averages_the_weights_now_and_then(outcomes):
    first, second = (outcome["post-local SGD"] for outcome in outcomes[1:])
    # Together until the 5th update, apart from then on, averaged with that one and each 4th that follows.
    assert first["agreed"] == [step <= 5 or (step - 5) % 4 == 0 for step in range(20)]
    assert first["agreed"] == second["agreed"]
    assert all(torch.isfinite(tensor).all() for tensor in first["state"].values())


def test_a_communication_hook_may_be_wrapped(outcomes, distance):
    first = outcomes[1]
    assert distance(first["compressed and wrapped"]["state"], first["compressed"]["state"]) == 0
    assert distance(first["compressed"]["state"], first["32-true"]["state"]) > 0


def test_batch_norm_trains_on_each_rank_s_statistics_and_evaluates_with_rank_0_s(
    outcomes, distance, monkeypatch, tmp_path, request
):
    first, second = (outcome["batch norm"] for outcome in outcomes[1:])
    weights = [name for name in first["state"] if "running" not in name]
    for name in weights:
        assert torch.equal(first["state"][name], second["state"][name])
    assert len(first["seen"]) == 2
    for mine, theirs in zip(first["seen"], second["seen"], strict=True):
        assert distance(mine, theirs) == 0
    assert distance(by_hand(monkeypatch, tmp_path, request), first["state"]) <= 1e-12


def by_hand(monkeypatch, tmp_path, request):
    """Two replicas in this process, which do what DDP's documentation says of buffers; rank 0's state."""
    scripts = request.path.parent / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    monkeypatch.setenv("OUT", str(tmp_path))
    names = runpy.run_path(str(scripts / "numerics.py"))
    monkeypatch.delitem(sys.modules, "problems")
    torch.manual_seed(3)
    first = names["Normalized"]().double()
    second = copy.deepcopy(first)
    x, y, _ = (tensor.double() for tensor in names["data"]().tensors)
    optimizers = [torch.optim.SGD(r.parameters(), lr=0.05, momentum=0.9) for r in (first, second)]
    for step in range(20):
        start = 8 * (step % 7)
        for mine, theirs in zip(first.buffers(), second.buffers(), strict=True):
            theirs.copy_(mine)
        for rank, replica in enumerate((first, second)):
            replica.zero_grad()
            rows = slice(start + rank, start + 8, 2)
            mse_loss(replica(x[rows]), y[rows]).backward()
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            mean = (one.grad + other.grad) / 2
            one.grad, other.grad = mean, mean.clone()
        for optimizer in optimizers:
            optimizer.step()
    return first.state_dict()


def test_an_unused_parameter_that_nobody_looks_for_is_torch_s_own_error_once(programs):
    done = programs.run("unused.py")
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: Expected to have finished reduction in the prior") == 1
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "find_unused_parameters=True" in done.stderr
