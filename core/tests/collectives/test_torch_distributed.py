from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrelay.collectives import TorchCollectives
from torchrelay.errors import TorchrelayError

pytestmark = pytest.mark.timeout(120)

VALUES = """
    from collections import namedtuple
    from dataclasses import dataclass

    from torchrelay.errors import ConfigurationError

    Point = namedtuple("Point", "x y")

    @dataclass
    class Metrics:
        loss: object
        seen: object

    c = TorchCollectives()
    c.connect(environment, cpu)
    result["who"] = (c.rank, c.world_size, c.backend)

    x = torch.tensor([1.0, 2.0]) * (rank + 1)
    result["ops"] = {op: c.reduce(x, op) for op in ("mean", "sum", "min", "max", "product")}
    result["untouched"] = x
    result["dtypes"] = {
        str(d): {op: c.reduce(torch.tensor([1, 2]).to(d) + rank, op) for op in ("mean", "sum", "max")}
        for d in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)
    }
    result["complex"] = c.reduce(torch.tensor([1 + 1j]) * (rank + 1))
    flag = torch.tensor([True, bool(rank), False])
    result["bool"] = {op: c.reduce(flag, op) for op in ("mean", "sum", "min", "max")}
    result["wrap"] = c.reduce(torch.tensor([200], dtype=torch.uint8), "sum")
    result["half"] = c.reduce(torch.tensor([60000.0], dtype=torch.float16))
    result["zero_dim"] = c.reduce(torch.tensor(float(rank)))
    result["empty"] = (c.reduce(torch.zeros(0, 3)), c.reduce({}), c.all_gather([]), c.all_gather(torch.zeros(0)))
    result["strided"] = c.reduce(torch.arange(6.0).reshape(2, 3).t() * (rank + 1), "sum")
    result["numbers"] = [c.reduce(v, op) for v, op in (
        (rank, "mean"), (rank + 1, "sum"), (rank + 0.5, "max"), (bool(rank), "max"), (bool(rank), "sum"),
        (2**60 + rank, "sum"))]

    calls = []
    plain = dist.all_reduce
    dist.all_reduce = lambda *a, **k: calls.append(1) or plain(*a, **k)
    nested = c.reduce({"a": [x, rank], "p": Point(x + 1, torch.tensor([rank])), "m": Metrics(x * 0.5, {"n": 3})})
    dist.all_reduce = plain
    result["nested"] = (
        nested["a"], tuple(nested["p"]), type(nested["p"]) is Point, type(nested["m"]) is Metrics,
        nested["m"].loss, nested["m"].seen)
    result["calls"] = len(calls)
    result["shared"] = nested["a"][0].untyped_storage().nbytes()

    result["gather"] = c.all_gather({"x": x, "i": torch.tensor(rank), "b": flag, "n": rank + 0.25,
                                     "h": torch.tensor([[1.5]], dtype=torch.bfloat16) * (rank + 1)})
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    out = c.all_gather([w * (rank + 1), torch.tensor([rank])], sync_grads=True)
    (out[0] * torch.tensor([[1.0, 10.0], [100.0, 1000.0]]) * (rank + 1)).sum().backward()
    result["gradient"] = (w.grad, out[1], out[0].detach())
    result["no_gradient"] = c.all_gather(w).requires_grad

    result["broadcast"] = [c.broadcast({"from": rank, "t": torch.tensor([rank])}, src=s) for s in (0, 1)]
    result["objects"] = c.gather_objects({"rank": rank, "long": "x" * 1000 * rank})
    result["decisions"] = [c.all(True), c.all(rank == 0), c.any(False), c.any(rank == 1)]
    c.barrier("here")
    for name, call in (("op", lambda: c.reduce(1, "avg")), ("leaf", lambda: c.reduce({"a": "text"}))):
        try:
            call()
        except ConfigurationError as error:
            result[name] = str(error)
    c.close()
    result["closed"] = dist.is_initialized()
"""


@pytest.fixture(scope="module")
def values(run_pair: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = run_pair(VALUES)
    return results


def test_ranks_and_backend(values: list[dict[str, Any]]) -> None:
    assert [each["who"] for each in values] == [(0, 2, "gloo"), (1, 2, "gloo")]
    assert [each["closed"] for each in values] == [False, False]


def test_reduce_computes_each_operation_on_every_rank(values: list[dict[str, Any]]) -> None:
    wanted = {"mean": [1.5, 3], "sum": [3, 6], "min": [1, 2], "max": [2, 4], "product": [2, 8]}
    for rank, each in enumerate(values):
        assert {op: tensor.tolist() for op, tensor in each["ops"].items()} == wanted
        assert each["untouched"].tolist() == [1.0 * (rank + 1), 2.0 * (rank + 1)]


def test_reduce_keeps_floats_and_the_fraction_of_integers(values: list[dict[str, Any]]) -> None:
    for name, ops in values[1]["dtypes"].items():
        floating = "float" in name
        assert ops["mean"].tolist() == [1.5, 2.5]
        assert ops["sum"].tolist() == [3, 5]
        assert ops["max"].tolist() == [2, 3]
        assert str(ops["mean"].dtype) == (name if floating else "torch.float32")
        assert str(ops["sum"].dtype) == (name if floating else "torch.int64")
        assert str(ops["max"].dtype) == name
    assert values[0]["complex"].tolist() == [1.5 + 1.5j]


def test_reduce_neither_wraps_nor_overflows_on_the_way(values: list[dict[str, Any]]) -> None:
    assert values[0]["wrap"].tolist() == [400]
    assert values[0]["half"].tolist() == [60000.0]


def test_reduce_of_booleans(values: list[dict[str, Any]]) -> None:
    found = {op: (tensor.dtype, tensor.tolist()) for op, tensor in values[0]["bool"].items()}
    assert found == {
        "mean": (torch.float32, [1.0, 0.5, 0.0]),
        "sum": (torch.int64, [2, 1, 0]),
        "min": (torch.bool, [True, False, False]),
        "max": (torch.bool, [True, True, False]),
    }


def test_reduce_of_unusual_shapes(values: list[dict[str, Any]]) -> None:
    each = values[0]
    assert each["zero_dim"].shape == ()
    assert each["zero_dim"].item() == 0.5
    assert each["empty"][0].shape == (0, 3)
    assert each["empty"][1:3] == ({}, [])
    assert each["empty"][3].shape == (2, 0)
    assert torch.equal(each["strided"], torch.arange(6.0).reshape(2, 3).t() * 3)


def test_numbers_come_back_as_numbers(values: list[dict[str, Any]]) -> None:
    found = values[0]["numbers"]
    assert found == [0.5, 3, 1.5, True, 1, 2**61 + 1]
    assert [type(number) for number in found] == [float, int, float, bool, int, int]


def test_containers_come_back_and_travel_together(values: list[dict[str, Any]]) -> None:
    listed, point, is_point, is_metrics, loss, seen = values[1]["nested"]
    assert (is_point, is_metrics) == (True, True)
    assert listed[0].tolist() == [1.5, 3.0]
    assert listed[1] == 0.5
    assert [part.tolist() for part in point] == [[2.5, 4.0], [0.5]]
    assert loss.tolist() == [0.75, 1.5]
    assert seen == {"n": 3.0}
    assert values[1]["calls"] == 2  # one for 32-bit floats, one for integers
    assert values[1]["shared"] == 8


def test_all_gather_stacks_in_rank_order(values: list[dict[str, Any]]) -> None:
    for each in values:
        found = each["gather"]
        assert found["x"].tolist() == [[1, 2], [2, 4]]
        assert found["i"].tolist() == [0, 1]
        assert found["b"].tolist() == [[True, False, False], [True, True, False]]
        assert found["n"].tolist() == [0.25, 1.25]
        assert found["h"].dtype is torch.bfloat16
        assert found["h"].tolist() == [[[1.5]], [[3.0]]]
        assert each["no_gradient"] is False


def test_all_gather_gradient_is_that_of_the_sum_of_all_losses(values: list[dict[str, Any]]) -> None:
    # Rank r gathers (r+1)*w; the ranks' losses weigh the slices by 1x and 2x the same matrix.
    weights = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    for rank, each in enumerate(values):
        gradient, numbers, out = each["gradient"]
        assert torch.equal(gradient, weights[rank] * (1 + 2) * (rank + 1))
        assert numbers.tolist() == [[0], [1]]
        assert out.tolist() == [[1, 2], [2, 4]]


def test_broadcast_of_objects(values: list[dict[str, Any]]) -> None:
    for each in values:
        assert [item["from"] for item in each["broadcast"]] == [0, 1]
        assert [item["t"].tolist() for item in each["broadcast"]] == [[0], [1]]


def test_objects_of_any_size_are_gathered(values: list[dict[str, Any]]) -> None:
    wanted = [{"rank": 0, "long": ""}, {"rank": 1, "long": "x" * 1000}]
    assert [each["objects"] for each in values] == [wanted, wanted]


def test_decisions(values: list[dict[str, Any]]) -> None:
    assert [each["decisions"] for each in values] == [[True, False, False, True]] * 2


def test_refusals_name_what_is_wrong(values: list[dict[str, Any]]) -> None:
    assert "'avg'; choose one of mean, sum, min, max, product" in values[0]["op"]
    assert "cannot combine a str" in values[0]["leaf"]


def test_runs_one_after_the_other_in_the_same_processes(run_pair: Any) -> None:
    # Rank 0 hosts the store itself here, through torch's own rendezvous.
    found = run_pair(
        """
        c = TorchCollectives(timeout=timedelta(seconds=30))
        sums = []
        for run in range(3):
            c.connect(environment, cpu)
            c.connect(environment, cpu)  # once is enough
            sums.append(c.reduce(rank + run, "sum"))
            c.close()
            c.close()
        other = TorchCollectives(backend="gloo")
        other.connect(environment, cpu)
        sums.append(other.reduce(10, "sum"))
        other.close()
        result["sums"] = sums
        """,
        hosted=False,
    )
    assert [each["sums"] for each in found] == [[1, 3, 5, 20]] * 2


def test_a_group_of_the_users_is_used_and_left(run_pair: Any) -> None:
    found = run_pair(
        """
        from torchrelay.errors import ConfigurationError

        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{Pair.main_port}", rank=rank, world_size=2)
        c = TorchCollectives()
        c.connect(environment, cpu)
        total = c.reduce(rank + 1, "sum")
        c.close()
        result["found"] = (total, dist.is_initialized())
        for name, backend, size in (("backend", "nccl", 2), ("size", None, 3)):
            Pair.world_size = size
            try:
                TorchCollectives(backend).connect(environment, cpu)
            except ConfigurationError as error:
                result[name] = str(error)
        dist.destroy_process_group()
        """,
        hosted=False,
    )
    assert [each["found"] for each in found] == [(3, True)] * 2
    assert "'gloo' exists already, but 'nccl' is asked for" in found[0]["backend"]
    assert "process group of 2 exists already, but the run has 3" in found[0]["size"]


def test_close_waits_neither_for_peers_nor_for_operations_in_flight(run_pair: Any) -> None:
    found = run_pair(
        """
        import time

        import torchrelay.collectives.torch_distributed as module

        module.PATIENCE = 0.5
        c = TorchCollectives()
        c.connect(environment, cpu)
        c.barrier()
        start = time.monotonic()
        if rank == 0:
            dist.all_reduce(torch.ones(1), async_op=True)  # the other rank never joins in
            c.close()
        else:
            time.sleep(6)
        result["seconds"] = time.monotonic() - start
        """
    )
    assert 0.4 < found[0]["seconds"] < 4


def test_a_peer_that_never_comes_is_a_launch_error(run_pair: Any) -> None:
    found = run_pair(
        """
        from torchrelay.errors import LaunchError

        try:
            TorchCollectives(timeout=timedelta(seconds=2)).connect(environment, cpu)
        except LaunchError as error:
            result["error"] = str(error)
        """,
        ranks=(1,),
    )
    assert "rank 1 did not meet the other processes (2 in all) at 127.0.0.1:" in found[0]["error"]
    assert "\n" not in found[0]["error"]


def test_a_store_that_nobody_hosts_is_a_launch_error(run_pair: Any) -> None:
    found = run_pair(
        """
        from torchrelay.errors import LaunchError

        try:
            TorchCollectives(timeout=timedelta(seconds=2)).connect(environment, cpu)
        except LaunchError as error:
            result["error"] = str(error)
        """,
        hosted=False,
        ranks=(1,),
    )
    assert "see that all of them run and reach that address" in found[0]["error"]


def test_under_torchrun_the_agent_hosts_the_store(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os
            import torch
            from torchrelay.collectives import TorchCollectives
            from torchrelay.environments.environment import ClusterEnvironment

            class Torchrun(ClusterEnvironment):
                name = "torchrun"
                creates_processes = True
                main_address = os.environ["MASTER_ADDR"]
                main_port = int(os.environ["MASTER_PORT"])
                world_size = int(os.environ["WORLD_SIZE"])
                global_rank = local_rank = int(os.environ["RANK"])
                node_rank = 0
                restart_count = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
                detect = classmethod(lambda cls, environ: True)

            c = TorchCollectives()
            for run in range(2):
                c.connect(Torchrun(), torch.device("cpu"))
                total = c.reduce(c.rank + 1, "sum")
                c.close()
            if c.rank == 0 and Torchrun.restart_count == 0:
                raise SystemExit("once more")
            print(f"total {total}")
            """
        ),
        encoding="utf-8",
    )
    run = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    done = subprocess.run(
        [sys.executable, "-m", *run, str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("total 3") >= 2


def test_before_connect_there_is_no_rank() -> None:
    with pytest.raises(TorchrelayError, match="call connect"):
        _ = TorchCollectives().rank
    assert TorchCollectives("gloo").backend == "gloo"
    TorchCollectives().close()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_nccl_in_a_world_of_one(run_pair: Any) -> None:
    found = run_pair(
        """
        Pair.world_size = 1
        gpu = torch.device("cuda", 0)
        torch.cuda.set_device(gpu)
        c = TorchCollectives()
        c.connect(environment, gpu)
        c.barrier()
        x = torch.ones(3, device=gpu, requires_grad=True)
        c.all_gather(x, sync_grads=True).sum().backward()
        result["found"] = (
            c.backend, c.reduce({"a": x.detach(), "b": 3, "c": torch.tensor([True])}, "sum"),
            c.broadcast({"t": x.detach()})["t"].device.type, x.grad.tolist())
        c.close()
        """,
        ranks=(0,),
    )
    backend, reduced, device, gradient = found[0]["found"]
    assert (backend, device, gradient) == ("nccl", "cuda", [1.0] * 3)
    assert reduced["a"].device.type == "cuda"
    assert reduced["b"] == 3
    assert reduced["c"].tolist() == [1]
