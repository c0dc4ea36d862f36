"""Training under Horovod arrives where one process does, on the same global batches."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.timeout(300)

HOROVODRUN = (
    str(Path(sysconfig.get_path("scripts")) / "horovodrun"),
    *("-np", "2", "python", "-W", "error"),
)

DOUBLE = {"precision": "64-true"}
THREE = {"accumulate_grad_batches": 3}  # 7 batches an epoch: the last window of each is a short one
CLIPPED = {"gradient_clip_val": 0.1}
BY_VALUE = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}


def case(module="Regression", trainer=None, **more):
    return {"module": module, "trainer": {**DOUBLE, **(trainer or {})}, **more}


EXACT = {
    **{
        f"{kind}{name}": case(arguments={"optimizer": kind}, trainer=trainer)
        for kind in ("sgd", "momentum", "adam", "adamw")
        for name, trainer in (("", {}), (", accumulated, clipped", {**THREE, **CLIPPED}))
    },
    "clipped by value": case(trainer=BY_VALUE),
    "everything": case(do=["fit", "validate", "predict"]),
    "divided before": case(strategy={"gradient_predivide_factor": 2.0}, trainer=THREE),
    "frozen": case("Frozen"),
    "unfrozen": case("Frozen", arguments={"turns": [3]}),
    "frozen and unfrozen": case("Frozen", arguments={"turns": [1, 2, 4, 5, 6]}),
    "unused": case("Unused"),
    "unused, accumulated": case("Unused", trainer=THREE),
    "never used": case("Unused", arguments={"every": 0}),
    "on one rank alone": case("OneSided"),
    "sparse": case("Embedded"),
    "by schedule": case("Scheduled"),
    "grouped": case("Grouped", trainer=CLIPPED),
    "own optimizer": case("OwnOptimizer", trainer=THREE),
    "own step": case("OwnStep"),
    "carrying": case("Carrying"),
    "watching": case("Watching", trainer=CLIPPED),
    "growing": case("Growing"),
    **{
        f"{how} cleared": case("Clearing", arguments={"how": how})
        for how in ("module", "optimizer", "parameters", "zeros")
    },
    **{
        f"by hand, {how} cleared": case("ByHand", arguments={"how": how})
        for how in ("own", "module", "optimizer", "parameters", "zeros")
    },
    "by hand, not toggled": case("ByHand", arguments={"toggles": False}),
    "again": case(strategy=["horovod", {"gradient_predivide_factor": 2.0}], trainer=THREE),
    "evaluation alone": case(do=["validate", "predict"]),
}

# What changes the groups in which gradients travel, or which of them there are, once more with groups of one.
EXACT |= {
    f"{name}, each alone": {**EXACT[name], "each_alone": True}
    for name in (
        *("adamw", "momentum, accumulated, clipped", "frozen and unfrozen", "unused", "watching"),
        *(
            "never used",
            "on one rank alone",
            "sparse",
            "growing",
            "by hand, own cleared",
            "grouped",
        ),
    )
}

INEXACT = {
    **{
        precision: {
            "module": "Regression",
            "trainer": {"precision": precision, **THREE, **CLIPPED},
            "do": ["fit", "validate"],
        }
        for precision in ("bf16-mixed", "16-mixed", "bf16-true")
    },
    "compressed": case(strategy={"compression": "fp16"}, trainer=THREE),
    "compressed, each alone": case(strategy={"compression": "fp16"}, each_alone=True),
    "compressed, 16-mixed": {
        "module": "Regression",
        "strategy": {"compression": "fp16"},
        "trainer": {"precision": "16-mixed"},
    },
}

ALONE_OTHERWISE = {
    "batch norm": case("Normalized", do=["fit", "validate"]),
    "overflowing": {"module": "Overflowing", "trainer": {"precision": "16-mixed"}},
    "scaled": case("Scheduled", strategy={"scale_lr": True}),
}
"""What nobody else does in the same way."""

COMPARED = {**EXACT, **INEXACT}

REFUSED = {
    "lbfgs": (
        case(arguments={"optimizer": "lbfgs"}),
        "LBFGS needs an optimizer that calls its closure several times",
    ),
    "no loss": (case("NoLoss"), "training_step returning None"),
    "reentrant": (case("Reentrant"), "use_reentrant=False"),
    "reentrant, each alone": (case("Reentrant", each_alone=True), "use_reentrant=False"),
}
"""What is only known when the processes run, and what they say, each of them."""


@pytest.fixture(scope="module")
def outcomes(shared):
    """What each of two ranks, and one process alone, arrived at in each case."""
    asked = {**COMPARED, **ALONE_OTHERWISE}
    asked |= {name: {**each, "refused": True} for name, (each, _) in REFUSED.items()}
    both, alone = shared.folder / "both.json", shared.folder / "alone.json"
    both.write_text(json.dumps(asked))
    alone.write_text(json.dumps(COMPARED))
    processes = [
        shared.start("runs.py", "2", str(both), launcher=HOROVODRUN),
        shared.start("runs.py", "1", str(alone)),
    ]
    for process in processes:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, out[-3000:] + err[-6000:]
    ranks = shared.results("runs-2")
    (one,) = shared.results("runs-1", ranks=1)
    return ranks, one


def test_the_launcher_is_horovod_s_own():
    assert shutil.which(HOROVODRUN[0])


@pytest.mark.parametrize("name", COMPARED)
def test_both_ranks_arrive_where_one_process_does(outcomes, distance, name):
    ranks, alone = outcomes
    one, near = alone[name], 0.02 if name in INEXACT else 1e-12
    for rank in (outcome[name] for outcome in ranks):
        assert distance(rank["state"], ranks[0][name]["state"]) == 0
        assert rank["steps"] == one["steps"]
        assert distance(rank["state"], one["state"]) <= near
        assert rank["metrics"].keys() == one["metrics"].keys()
        for metric, value in rank["metrics"].items():
            assert value == pytest.approx(one["metrics"][metric], abs=max(near, 1e-6))
        if "fit" in COMPARED[name].get("do", ["fit"]):
            assert distance(ranks[0][name]["initial"], rank["state"]) > 0.01


@pytest.mark.parametrize("name", [*COMPARED, *ALONE_OTHERWISE])
def test_nothing_is_left_behind(outcomes, name):
    for rank in (outcome[name] for outcome in outcomes[0]):
        assert rank["left"] == {"hooks": [], "kinds": {nn.Parameter}, "connected": False}


@pytest.mark.parametrize("name", EXACT)
def test_gradients_are_left_as_one_process_leaves_them(outcomes, name):
    for rank in outcomes[0]:
        assert rank[name]["gradients"] == outcomes[1][name]["gradients"]


def test_weights_that_ranks_have_drawn_differ_before(outcomes, distance):
    first, second = (rank["momentum"]["initial"] for rank in outcomes[0])
    assert distance(first, second) > 0.1
    assert distance(first, outcomes[1]["momentum"]["initial"]) == 0


def test_predictions_are_those_of_one_process(outcomes):
    ranks, alone = outcomes
    expected = dict(_by_index(alone["everything"]["predict"]))
    found = dict(pair for rank in ranks for pair in _by_index(rank["everything"]["predict"]))
    assert found.keys() == expected.keys()
    for index, output in found.items():
        torch.testing.assert_close(output, expected[index], rtol=0, atol=1e-6)


def _by_index(batches):
    for indices, outputs in batches:
        yield from zip(indices.tolist(), outputs, strict=True)


def test_optimizers_stay_what_their_authors_made_them(outcomes):
    ranks, alone = outcomes
    for rank in ranks:
        assert rank["own optimizer"]["optimizers"] == ["Picky"]
        assert rank["by hand, own cleared"]["optimizers"] == ["Adam", "SGD"]
        assert rank["own optimizer"]["facts"] == alone["own optimizer"]["facts"]
        assert rank["own optimizer"]["facts"]["updates"] == 14


@pytest.mark.parametrize("when", ["after", "before"])
def test_gradients_that_are_seen_are_averaged(outcomes, when):
    ranks, alone = outcomes
    expected = alone["watching"]["facts"][when]
    for rank in ranks:
        found = rank["watching"]["facts"][when]
        assert len(found) == len(expected) == 14
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_rates_are_those_of_the_schedule(outcomes):
    ranks, alone = outcomes
    rates = alone["by schedule"]["facts"]["rates"]
    assert len(set(rates)) > 1
    for rank in ranks:
        assert rank["by schedule"]["facts"]["rates"] == rates
        assert not rank["by schedule"]["told"]


def test_rates_are_scaled_when_that_is_asked_for_and_it_is_told(outcomes):
    ranks, alone = outcomes
    once = alone["by schedule"]["facts"]["rates"]
    for number, rank in enumerate(ranks):
        assert rank["scaled"]["facts"]["rates"] == pytest.approx([2 * rate for rate in once])
        told = ["scale_lr: the learning rate of SGD is 0.05 x 2 ranks = 0.1"]
        assert rank["scaled"]["told"] == (told if number == 0 else [])


def test_an_overflow_on_one_rank_skips_the_update_on_all(outcomes, distance):
    first, second = (rank["overflowing"] for rank in outcomes[0])
    assert distance(first["state"], second["state"]) == 0
    assert all(tensor.isfinite().all() for tensor in first["state"].values())
    scales = first["facts"]["scales"]
    assert scales == second["facts"]["scales"]
    # Batch 2 of each epoch of 7.
    assert scales[2] == scales[1] / 2
    assert scales[9] == scales[8] / 2


def test_batch_norm_is_evaluated_with_the_statistics_of_rank_0(outcomes, distance):
    first, second = (rank["batch norm"] for rank in outcomes[0])
    assert first["metrics"] == second["metrics"]
    assert distance(first["state"], second["state"]) == 0  # validation came last
    assert first["state"]["norm.num_batches_tracked"] == 14


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_all_ranks_alike(outcomes, name):
    for rank in outcomes[0]:
        assert REFUSED[name][1] in rank[name]["refused"]
        assert "\n" not in rank[name]["refused"]
        assert not rank[name]["connected"]
        assert not rank[name]["hooks"]
