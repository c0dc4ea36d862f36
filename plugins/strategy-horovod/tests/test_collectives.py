"""Every operation on every type, among all ranks and within a process set."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.timeout(200)

HOROVODRUN = (
    str(Path(sysconfig.get_path("scripts")) / "horovodrun"),
    *("-np", "3", "python", "-W", "error"),
)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(scope="module")
def ranks(shared):
    """What each of three ranks has left."""
    return shared.train("talking.py", ranks=3, name="talk", launcher=HOROVODRUN)


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS], ids=str)
def test_numbers_are_combined_in_a_type_that_holds_them(ranks, dtype):
    each = torch.stack([torch.tensor([1.0, 2.0, 3.0]) * (rank + 1) for rank in range(3)])
    expected = {
        "mean": each.mean(0),
        "sum": each.sum(0),
        "min": each.amin(0),
        "max": each.amax(0),
        "product": each.prod(0),
    }
    for rank in ranks:
        for op, wanted in expected.items():
            found = rank["reduced"][dtype][op]
            torch.testing.assert_close(found.double(), wanted.double(), rtol=0.01, atol=0)
            if dtype in FLOATS:
                assert found.dtype is dtype
            else:
                kinds = {"mean": torch.float32, "sum": torch.int64, "product": torch.int64}
                assert found.dtype is kinds.get(op, dtype)


def test_booleans_are_counted_and_compared(ranks):
    for rank in ranks:
        found = rank["reduced"][torch.bool]
        assert found["min"].tolist() == found["max"].tolist() == [True] * 3
        assert found["sum"].tolist() == [3] * 3
        assert found["min"].dtype is torch.bool


def test_numbers_without_dimensions_and_complex_ones(ranks):
    for rank in ranks:
        total, mean = rank["zero_dim"]
        assert total.shape == ()
        assert (float(total), mean) == (3.0, 1.0)
        torch.testing.assert_close(rank["complex"], torch.tensor([1 + 2j, 1j]))
        assert "no max of complex numbers" in rank["complex max"]


@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, *FLOATS], ids=str)
def test_any_type_is_gathered(ranks, dtype):
    expected = torch.stack(
        [(torch.tensor([1, 2, 3]) + r).to(dtype).reshape(3, 1) for r in range(3)]
    )
    for rank in ranks:
        assert torch.equal(rank["gathered"][dtype], expected)


def test_what_has_no_dimension_no_element_or_another_shape(ranks):
    for rank in ranks:
        assert rank["gathered zero_dim"]["a"].tolist() == [0, 1, 2]
        assert rank["gathered zero_dim"]["b"].tolist() == [0.0, 1.0, 2.0]
        assert "ranks gave tensors of other shapes or types to one collective" in str(
            rank["ragged"]
        )
        assert [tuple(each.shape) for each in rank["empty"]] == [(0,), (3, 2, 0)]


def test_objects_travel(ranks):
    for rank in ranks:
        assert rank["objects"] == [{"rank": r, "more": "x" * r} for r in range(3)]
        for src, (number, tensor) in enumerate(rank["broadcast"]):
            assert number == src
            assert tensor.tolist() == [src, src]


def test_they_work_in_inference_mode(ranks):
    for rank in ranks:
        mean, gathered, first = rank["inference"]
        assert mean.tolist() == [1.0, 2.0, 3.0]
        assert gathered.tolist() == [[1, 2, 3]] * 3
        assert first == 0


def test_rank_0_s_tensors_are_everybody_s(ranks):
    for rank in ranks:
        shared = rank["shared"]
        assert not shared["bf16"].any()
        assert bool(shared["flag"])
        assert int(shared["count"]) == 0


def test_a_process_set_is_a_world_of_its_own(ranks):
    for number, rank in enumerate(ranks[:2]):
        pair = rank["pair"]
        assert pair["place"] == (number, 2)
        assert pair["mean"].tolist() == [0.5]
        assert pair["bf16"].tolist() == [1.0, 1.0]
        assert pair["gathered"].tolist() == [[0], [1]]
        assert pair["last"] == 1
        assert pair["objects"] == [0, 1]
    assert "rank 2 is not in group=[0, 1]" in ranks[2]["outside"]


def test_only_process_sets_are_groups(ranks):
    for rank in ranks:
        assert rank["whole"]
        assert "group=[0, 2] is no process set; there are [0, 1]" in rank["unknown"]
        assert "HorovodStrategy(process_sets=[[0, 2]])" in rank["unknown"]
        assert "some of the ranks 0 to 2" in rank["wrong"]


def test_all_wait_at_a_barrier_though_some_have_talked_more(ranks):
    for rank in ranks:
        assert rank["after"] == 3
        assert rank["waited"] >= 0.4


def test_nothing_stays_and_ranks_can_meet_again(ranks):
    for number, rank in enumerate(ranks):
        assert rank["place"] == (number, 3)
        assert "not connected" in rank["refused"]
        assert rank["closed"] == (number, 3, False, True)
        assert rank["again"] == 3
