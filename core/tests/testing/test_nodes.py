"""Two machines on one."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from torchrelay.testing.nodes import Node, agent, two_nodes

SERVE = (
    "import socket; s = socket.create_server(('10.77.0.1', 4000)); print(flush=True); s.accept()"
)
CALL = "import socket; print(socket.create_connection(('10.77.0.1', 4000), 20).getsockname()[0])"


def namespaces():
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in listed.stdout.splitlines()]


@pytest.mark.nodes
def test_two_machines_reach_each_other_and_are_gone_afterwards():
    before = namespaces() if shutil.which("ip") else []
    with two_nodes() as (first, second):
        if first.address == "127.0.0.1":
            pytest.skip("may make no network namespaces")
        command = [*first.prefix, sys.executable, "-c", SERVE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout.readline() == "\n"
            command = [*second.prefix, sys.executable, "-c", CALL]
            done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=True)
            assert done.stdout == f"{second.address}\n"
        assert server.returncode == 0
    assert namespaces() == before


def test_without_iproute2_both_are_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with two_nodes() as nodes:
        assert nodes == (Node("127.0.0.1", "lo"), Node("127.0.0.1", "lo"))
        command, variables = agent(nodes, 1, 29400)
    assert command[:3] == (sys.executable, "-m", "torch.distributed.run")
    assert command[command.index("--rdzv-endpoint") + 1] == "127.0.0.1:29400"
    assert command[command.index("--rdzv-conf") + 1] == "is_host=0"
    assert variables == {"GLOO_SOCKET_IFNAME": "lo"}
