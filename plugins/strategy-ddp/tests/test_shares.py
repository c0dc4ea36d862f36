"""What two ranks read: predictions come back in order, and a rank that has less is told of, not waited for."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(100)


@pytest.fixture(scope="module")
def predicted(shared):
    return shared.train("shares.py", "predict")


@pytest.fixture(scope="module")
def alone(shared):
    return shared.train("shares.py", "alone", ranks=1, name="alone")[0]


@pytest.mark.parametrize("loader", ["one", "shuffled", "items", "two"])
def test_predictions_are_those_of_one_process(predicted, alone, loader):
    assert alone[loader]
    for rank in predicted:
        assert rank[loader] == alone[loader]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("unsized", "the training data of rank 1 ended after 2 batches, and other ranks have more"),
        ("unsized-none", "the training data of rank 1 ended after 0 batches"),
        ("sized", "different numbers of training batches: 3 on rank 0, 2 on rank 1"),
        ("small", "1 sample for 2 processes"),
    ],
)
def test_a_rank_with_less_data_is_told_of(programs, case, message):
    done = programs.run("shares.py", case)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_ranks_with_as_many_batches_train_on_what_has_no_length(programs):
    assert [rank["steps"] for rank in programs.train("shares.py", "unsized-equal")] == [3, 3]
