"""Two machines for tests on one: two network namespaces where that is allowed, else two torchrun agents on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torchrelay.testing.programs import LIMIT, Programs


@dataclass(frozen=True)
class Node:
    """A machine.

    Attributes:
        address: its own, which the other reaches.
        interface: the network interface that has it.
        prefix: what makes a command run there.
    """

    address: str
    interface: str
    prefix: tuple[str, ...] = ()


Nodes = tuple[Node, Node]


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """Two machines that reach each other, for as long as the block lasts.

    Network namespaces take root's rights and iproute2; without them, both are this machine.
    """
    names = (f"relay-{os.getpid()}-a", f"relay-{os.getpid()}-b")
    links = (f"va{os.getpid()}", f"vb{os.getpid()}")
    try:
        try:
            nodes = _connect(names, links)
        except (OSError, subprocess.CalledProcessError):
            nodes = (Node("127.0.0.1", "lo"), Node("127.0.0.1", "lo"))
        yield nodes
    finally:
        if shutil.which("ip"):
            for name in names:
                # With a namespace goes its end of the cable, and with that the other end.
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def agent(nodes: Nodes, index: int, port: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """The torchrun command that starts the one process of a machine, and its variables.

    Args:
        nodes: what `two_nodes` gave.
        index: which of them.
        port: on the first, where both meet.
    """
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


def train_on(
    nodes: Nodes,
    programs: Programs,
    *command: str,
    name: str = "result",
    limit: float = LIMIT,
    **variables: str,
) -> list[Any]:
    """Run a program that is to succeed on both machines, and return what each rank left.

    Which machine has rank 0 is for the agents to agree on; the variable SEAT is the machine's index.

    Args:
        nodes: what `two_nodes` gave.
        programs: those of the test.
        command: as of `Programs.start`.
        name: under which the ranks leave their results.
        limit: seconds that it may take.
        variables: of the environment.
    """
    port = _free_port()
    processes = []
    for index in (0, 1):
        launcher, own = agent(nodes, index, port)
        own |= {"SEAT": str(index), **variables}
        processes.append(programs.start(*command, launcher=launcher, **own))
    for process in processes:
        out, err = process.communicate(timeout=limit)
        if process.returncode:
            raise AssertionError(out + err)
    return programs.results(name)


def _connect(names: tuple[str, str], links: tuple[str, str]) -> Nodes:
    """Two namespaces with a cable between them."""
    for name in names:
        _ip("netns", "add", name)
    ends = ("netns", names[0], "type", "veth", "peer", "name", links[1], "netns", names[1])
    _ip("link", "add", links[0], *ends)
    nodes = []
    for name, link, address in zip(names, links, ("10.77.0.1", "10.77.0.2"), strict=True):
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
        for device in ("lo", link):
            _ip("-n", name, "link", "set", device, "up")
        nodes.append(Node(address, link, ("ip", "netns", "exec", name)))
    return nodes[0], nodes[1]


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True, text=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
