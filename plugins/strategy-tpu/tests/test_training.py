"""Training on XLA:CPU arrives where the processor does, and compiles and runs no more than it has to."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(300)

CASES = ("sgd", "adamw", "accumulated, clipped", "clipped by value", "ragged")
INEXACT = ("bf16-mixed", "bf16-true")
STRATEGIES = {"single_tpu": 1, "tpu_spmd": 2, "tpu_fsdp": 2}
BATCHES = 7


@pytest.fixture(scope="module")
def processor(shared):
    """What the processor arrives at, without XLA."""
    (found,) = shared.train(
        "runs.py", "single_device", "cpu", "1", ranks=1, name="runs-single_device-cpu"
    )
    return found


@pytest.fixture(scope="module", params=STRATEGIES)
def xla(request, shared):
    """The strategy, and what it arrives at."""
    strategy = request.param
    devices, name = STRATEGIES[strategy], f"runs-{strategy}-tpu"
    (found,) = shared.train("runs.py", strategy, "tpu", str(devices), ranks=1, name=name)
    return strategy, found


@pytest.mark.parametrize("case", [*CASES, *INEXACT])
def test_it_arrives_where_the_processor_does(xla, processor, distance, case):
    _, found = xla
    mine, expected = found[case], processor[case]
    near = 0.05 if case in INEXACT else 5e-6
    assert mine["steps"] == expected["steps"]
    assert distance(mine["state"], expected["state"]) <= near
    assert mine["val_loss"] == pytest.approx(expected["val_loss"], abs=near)
    assert float((mine["predicted"] - expected["predicted"]).abs().max()) <= 4 * near


@pytest.mark.parametrize("case", CASES)
def test_weights_stay_tied_and_the_user_s_parameters_come_back(xla, case):
    _, found = xla
    assert found[case]["tied"]
    assert found[case]["own"]
    assert found[case]["facts"] == {"built on": {"xla"}, "all there": True, "tied": True}


@pytest.mark.parametrize("case", CASES)
def test_only_tpu_fsdp_divides_parameters_and_moments(xla, case):
    strategy, found = xla
    # One number cannot be divided.
    sharded = {name: name != "last.bias" for name in found[case]["divided"]}
    assert found[case]["divided"] == (
        sharded if strategy == "tpu_fsdp" else dict.fromkeys(sharded, False)
    )
    assert len(sharded) == 7


# --- what XLA compiles and runs -------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["single_tpu", "tpu_spmd"])
def counts(request, tmp_path_factory, scripts_of):
    """The strategy, and its counts of three epochs in each case."""
    strategy = request.param
    programs = scripts_of(tmp_path_factory.mktemp(strategy))
    (found,) = programs.train(
        "counted.py", strategy, str(STRATEGIES[strategy]), ranks=1, name="counted"
    )
    return strategy, found


def executions(epochs):
    return [each["executions"] for each in epochs]


def compilations(epochs):
    return [each["compilations"] for each in epochs]


def test_a_micro_batch_is_one_execution(counts):
    _, found = counts
    for case in ("fixed", "ragged", "accumulated"):
        # The first epoch may begin with what the placing of the module has left to do.
        assert executions(found[case])[0] in (BATCHES, BATCHES + 1), (case, found[case])
        assert executions(found[case])[1:] == [BATCHES] * 2, (case, found[case])


def test_nothing_is_compiled_after_the_first_epoch(counts):
    _, found = counts
    for case in ("fixed", "ragged", "accumulated"):
        assert compilations(found[case])[1:] == [0, 0], (case, found[case])
    # What was compiled before is found again, but for the last batch, which has a shape of its own.
    assert compilations(found["ragged"])[0] == 1


def test_logging_costs_no_execution_until_it_is_read(counts):
    _, found = counts
    # The mean is read once, when the epoch ends, which may be before the count.
    for number in executions(found["logged"])[1:]:
        assert number in (BATCHES, BATCHES + 1), found["logged"]
    # What is read at each step runs by itself, before the rest of the step.
    for number in executions(found["read"])[1:]:
        assert number in (2 * BATCHES, 2 * BATCHES + 1), found["read"]
    # The first epoch's mean begins without a sum, the second's with the optimizer's state; then all is compiled.
    assert compilations(found["logged"])[2] == compilations(found["read"])[2] == 0


def test_the_bare_loop_compiles_and_runs_as_much(counts):
    strategy, found = counts
    if strategy == "single_tpu":
        assert executions(found["bare"]) == executions(found["fixed"])
        assert executions(found["bare, ragged"]) == executions(found["ragged"])
        # The bare loop came first, and all of its graphs are found again.
        assert compilations(found["bare"])[1:] == [0, 0]
        assert compilations(found["fixed"]) == [0, 0, 0]
        assert compilations(found["bare, ragged"]) == compilations(found["ragged"])


def test_a_device_other_than_the_first_is_synced_as_often(counts):
    strategy, found = counts
    if strategy == "single_tpu":
        assert executions(found["on the second"])[1:] == [BATCHES] * 2, found["on the second"]
        assert compilations(found["on the second"])[1:] == [0, 0]


# --- data and seeds -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loading(shared):
    (found,) = shared.train("loading.py", ranks=1, name="loading")
    return found


def test_an_exception_of_the_data_set_reaches_the_user(loading):
    assert loading["broken"] == "sample 24 is broken"
    assert loading["swallowed"] == 3, "MpDeviceLoader has been mended"


def test_a_loader_keeps_its_length_and_its_data_set(loading):
    assert loading["length"] == (True, BATCHES, True)


def test_a_break_leaves_no_thread(loading):
    assert loading["threads"] == []


def test_data_without_a_length_is_trained_on(loading, distance):
    steps, state = loading["stream"]
    assert steps == BATCHES
    assert distance(state, loading["sized"]) <= 1e-6


def test_a_loader_s_workers_load(loading, distance):
    assert distance(loading["workers"], loading["sized"]) == 0


def test_a_seed_is_the_device_s_as_well(loading, distance):
    first, again, other = loading["seeds"]
    assert distance(first, again) == 0
    assert distance(first, other) > 1e-3


def test_random_numbers_are_others_in_each_step_of_each_epoch(loading):
    masks = {tuple(each) for each in loading["masks"]}
    assert len(loading["masks"]) == len(masks) == 6


def test_xla_s_own_tensors_are_written_as_the_cpu_s(loading):
    assert loading["written"] == {"cpu", "2.0"}
