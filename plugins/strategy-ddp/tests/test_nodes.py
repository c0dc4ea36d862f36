"""Two machines: two network namespaces where the machine allows it, else two torchrun agents on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

pytestmark = [pytest.mark.timeout(150), pytest.mark.nodes]


@dataclass(frozen=True)
class Node:
    """A machine: how to run a command on it, and its address."""

    address: str
    prefix: tuple[str, ...]
    interface: str


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True, text=True)


def connect(names: tuple[str, str], links: tuple[str, str]) -> tuple[Node, Node]:
    """Two namespaces with a cable between them."""
    for name in names:
        ip("netns", "add", name)
    ends = ("netns", names[0], "type", "veth", "peer", "name", links[1], "netns", names[1])
    ip("link", "add", links[0], *ends)
    nodes = []
    for name, link, address in zip(names, links, ("10.77.0.1", "10.77.0.2"), strict=True):
        ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
        for device in ("lo", link):
            ip("-n", name, "link", "set", device, "up")
        nodes.append(Node(address, ("ip", "netns", "exec", name), link))
    return nodes[0], nodes[1]


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two machines that reach each other."""
    names = (f"relay-{os.getpid()}-a", f"relay-{os.getpid()}-b")
    links = (f"va{os.getpid()}", f"vb{os.getpid()}")
    loopback = Node("127.0.0.1", (), "lo")
    try:
        try:
            pair = connect(names, links)
        except (OSError, subprocess.CalledProcessError):
            pair = (loopback, loopback)
        yield pair
    finally:
        if shutil.which("ip"):
            for name in names:
                # With a namespace goes its end of the cable, and with that the other end.
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def agent(
    nodes: tuple[Node, Node], index: int, port: int
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command that starts a machine's processes, and its variables."""
    node = nodes[index]
    options = {
        "--nnodes": "2",
        "--nproc-per-node": "1",
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": f"{nodes[0].address}:{port}",
        "--rdzv-id": "job",
        # Without this nobody hosts the store where host names do not resolve to these addresses.
        "--rdzv-conf": f"is_host={int(index == 0)}",
        "--local-addr": node.address,
    }
    words = (word for pair in options.items() for word in pair)
    command = (*node.prefix, sys.executable, "-m", "torch.distributed.run", *words)
    return command, {"GLOO_SOCKET_IFNAME": node.interface}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_nodes_equal_one_process(programs, nodes, reference, distance):
    asked = [
        {"strategy": "ddp", "num_nodes": 2},
        {"strategy": "ddp2", "num_nodes": 2, "devices": 1},
        {"strategy": "ddp2"},
        {},
        {"strategy": "ddp", "num_nodes": 3},
        {"strategy": "ddp2", "devices": 2},
    ]
    port = free_port()
    processes = []
    for index in (0, 1):
        launcher, variables = agent(nodes, index, port)
        arguments = map(json.dumps, asked)
        processes.append(
            programs.start("runs.py", *arguments, launcher=launcher, SEAT=str(index), **variables)
        )
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    seats = programs.results("runs")
    # Which machine has rank 0 is for the agents to agree on.
    assert sorted(seat[0]["rank"] for seat in seats) == [0, 1]
    for *trained, three, two_cpus in seats:
        for ran in trained:
            assert (ran["world"], ran["local_rank"]) == (2, 0)
            assert ran["node"] == ran["rank"] == trained[0]["rank"]
            assert (ran["environment"], ran["launches"]) == ("torchrun", False)
            assert distance(ran["state"], reference) <= 1e-12
        kinds = [ran["strategy"] for ran in trained]
        assert kinds == ["DDPStrategy", "DDP2Strategy", "DDP2Strategy", "DDPStrategy"]
        assert "num_nodes=3 asks for 3 processes, but torchrun started 2" in three["refused"]
        assert "torch.nn.DataParallel replicates a module between GPUs only" in two_cpus["refused"]
        assert not three["connected"]
        assert not two_cpus["connected"]
