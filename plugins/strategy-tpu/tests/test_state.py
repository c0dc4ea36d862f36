"""Checkpoints: written with tensors on the CPU, resumed here, and on the processor, and the reverse."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(300)

STRATEGIES = {"single_tpu": 1, "tpu_fsdp": 2}


@pytest.fixture(scope="module", params=STRATEGIES)
def states(request, tmp_path_factory, scripts_of):
    """The strategy, and what each link of its chain arrived at."""
    strategy = request.param
    programs = scripts_of(tmp_path_factory.mktemp(strategy))
    (found,) = programs.train(
        "states.py", strategy, str(STRATEGIES[strategy]), ranks=1, name="states"
    )
    return found


def test_a_resumed_run_is_the_uninterrupted_one(states, distance):
    assert distance(states["resumed"], states["whole"]) <= 1e-6


def test_one_with_dropout_is_too(states, distance):
    assert distance(states["dropout"], states["whole"]) > 1e-2
    assert distance(states["dropout, resumed"], states["dropout"]) <= 1e-6


def test_the_processor_goes_on_from_it(states, distance):
    assert distance(states["to the processor"], states["whole"]) <= 1e-5


def test_it_goes_on_from_the_processor(states, distance):
    assert distance(states["from the processor"], states["on the processor"]) <= 1e-5


def test_what_is_saved_is_on_the_cpu(states):
    assert states["devices"] == {"cpu"}


def test_what_is_loaded_is_divided_anew(states):
    before, after = states["divided"]
    assert before == after
    assert len(after) == 7
