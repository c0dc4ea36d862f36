"""Two processes on simulated HPUs, HCCL over gloo, arrive where one process on the processor does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "scripts"))

import pair  # noqa: E402

from torchrelay.testing.numerics_problems import Normalized, Trained  # noqa: E402

pytestmark = pytest.mark.timeout(150)

NEAR = 1e-6


@pytest.fixture(scope="module", params=["1", "0"], ids=["lazy", "eager"])
def ranks(shared, request):
    variables = {
        "PYTHONPATH": str(HERE / "simulator"),
        "PT_HPU_LAZY_MODE": request.param,
        "HABANA_VISIBLE_MODULES": "5,3",
    }
    found = shared.train("pair.py", name="pair", **variables)
    return request.param == "1", found


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_training_is_that_of_one_process(ranks, distance, kind):
    optimizer = pair.optimizers()[kind]
    plain = pair.train(pair.CPU, Trained(optimizer), 8)
    windows = pair.train(
        pair.CPU, Trained(optimizer), 8, accumulate_grad_batches=3, gradient_clip_val=0.1
    )
    for rank in ranks[1]:
        assert distance(rank["states"][kind], plain) <= NEAR
        assert distance(rank["states"][f"{kind}, windows"], windows) <= NEAR
    assert distance(plain, Trained(optimizer).state_dict()) > 0.01


def test_fused_operations_are_near(ranks, distance):
    expected = pair.train(pair.CPU, Trained(pair.optimizers()["adamw"]), 8)
    for rank in ranks[1]:
        assert distance(rank["states"]["fused"], expected) <= 1e-4


def test_compiled_steps_arrive_there_too(ranks, distance):
    lazy, found = ranks
    if lazy:
        assert all("compiled" not in rank["states"] for rank in found)
        return
    expected = pair.train(pair.CPU, Trained(pair.optimizers()["adamw"]), 8)
    for rank in found:
        assert distance(rank["states"]["compiled"], expected) <= NEAR


def test_collectives(ranks):
    for rank in ranks[1]:
        talk = rank["notes"]["talk"]
        assert talk["mean"].tolist() == [2.25, -3.0]
        assert talk["max"].tolist() == [3.0, -2.0]
        assert talk["integers"].tolist() == [2**41 + 3, -5]
        assert talk["smallest"].tolist() == [2**40 + 1, -3]
        assert talk["product"].tolist() == [4.5, 8.0]
        assert talk["decided"] == (False, True)
        assert talk["object"]["rank"] == 1
        assert talk["object"]["tensor"].tolist() == [3.0, -4.0]


def test_hccl_itself_refuses(ranks):
    lazy, found = ranks
    for rank in found:
        average, product, longs, ints, host = rank["notes"]["refused"]
        assert all("simulated" in each for each in (average, product, longs, host))
        assert bool(ints) is lazy


def test_each_rank_has_a_module_and_puts_the_environment_back(ranks):
    for number, rank in enumerate(ranks[1]):
        found = rank["notes"]["environment"]
        assert found["HLS_MODULE_ID"] == ("5", "3")[number]
        assert (found["ID"], found["RANK"], found["LOCAL_RANK"]) == (str(number),) * 3
        assert (found["WORLD_SIZE"], found["HCCL_DISTRIBUTED_BACKEND"]) == ("2", "1")
        assert rank["left"] == []


def test_every_rank_evaluates_with_the_first_one_s_buffers(ranks, distance):
    one, other = (rank["notes"]["statistics"] for rank in ranks[1])
    assert distance(one, other) == 0
    assert distance(one, dict(Normalized().named_buffers())) > 0
