"""Two real gloo processes for the tests of collectives."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

from torchrelay.testing.forkserver import shared_server

PRELUDE = """
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from torchrelay.collectives import TorchCollectives
from torchrelay.environments.environment import ClusterEnvironment


class Pair(ClusterEnvironment):
    name = "pair"
    creates_processes = True
    main_address = "127.0.0.1"
    main_port = int(sys.argv[2])
    world_size = 2
    global_rank = local_rank = int(sys.argv[1])
    node_rank = 0
    store_is_hosted = sys.argv[3] == "hosted"

    @classmethod
    def detect(cls, environ):
        return True


rank = Pair.global_rank
environment = Pair()
cpu = torch.device("cpu")
result = {}
"""

Run = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def run_pair(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a script in two processes, with `environment`, `rank` and `cpu` set, and return what each put in
    `result`."""

    def run(body: str, *, hosted: bool = True, ranks: tuple[int, ...] = (0, 1)) -> list[Any]:
        folder = tmp_path_factory.mktemp("pair")
        script = folder / "script.py"
        script.write_text(
            PRELUDE + textwrap.dedent(body) + "\ntorch.save(result, sys.argv[4])\n",
            encoding="utf-8",
        )
        if hosted:
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            port = store.port
        else:
            port = free_port()
        return _run(script, folder, [str(port), "hosted" if hosted else "own"], ranks)

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(script: Path, folder: Path, arguments: list[str], ranks: tuple[int, ...]) -> list[Any]:
    outputs = [folder / f"{rank}.pt" for rank in ranks]
    processes = [
        shared_server().popen(
            [sys.executable, "-W", "error", str(script), str(rank), *arguments, str(output)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, output in zip(ranks, outputs, strict=True)
    ]
    try:
        errors = [process.communicate(timeout=90)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(ranks), "\n".join(errors)
    return [torch.load(output, weights_only=False) for output in outputs]
