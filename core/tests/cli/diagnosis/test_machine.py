from __future__ import annotations

import os
import socket
import sys

import pytest

from torchrelay.cli.diagnosis import machine
from torchrelay.plugin import checks


def only(found, what):
    (fact,) = [fact for fact in found if fact.what == what]
    return fact


def test_every_fact_is_told():
    told = [fact.what for fact in machine.facts()]
    assert told[:3] == ["Python", "system", "torchrelay"]
    assert {"torch", "C++ compiler", "ninja", "ports"} <= set(told)


@pytest.fixture
def extensions(tmp_path, monkeypatch):
    """The folder of torch's extensions, with two builds whose locks are there."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name in ("held", "py311_cpu/stale"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "lock").touch()
    return tmp_path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_lock_that_nobody_has_open_is_stale(extensions):
    with (extensions / "held" / "lock").open():
        fact = only(machine.extension_locks(), "stale lock")
    lock = extensions / "py311_cpu" / "stale" / "lock"
    assert fact.found == f"{lock}: no process has it open"
    assert fact.mend == f"rm {lock}"
    with (extensions / "held" / "lock").open():
        complaint = checks.extension_locks()
    assert (
        complaint == f"whoever loads an extension whose build was ended waits for ever: rm {lock}"
    )


def test_where_processes_cannot_be_looked_into_a_lock_may_be_stale(extensions, monkeypatch):
    monkeypatch.setattr(checks, "PROCESSES", extensions / "no-proc")
    found = list(machine.extension_locks())
    assert [fact.what for fact in found] == ["stale lock"] * 2
    assert found[0].mend.startswith("if no build is under way: rm ")


def test_without_locks_all_is_well(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checks.extension_locks() is None
    (fact,) = machine.extension_locks()
    assert (fact.found, fact.mend) == (f"none is stale in {tmp_path / 'torch_extensions'}", "")


def test_little_shared_memory_is_told_with_its_cure(monkeypatch):
    if not machine.SHARED_MEMORY.is_dir():
        pytest.skip("there is no /dev/shm")
    (fact,) = machine.shared_memory()
    assert fact.what == "/dev/shm"
    monkeypatch.setattr(machine, "LEAST_SHARED_MEMORY", 1 << 60)
    (fact,) = machine.shared_memory()
    assert "--shm-size" in fact.mend


def test_a_port_that_is_taken(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        taken = only(machine.ports(), "MASTER_PORT")
    assert taken.found.startswith(f"{port}: ")
    assert taken.mend == "unset MASTER_PORT, or choose a free one"
    free = only(machine.ports(), "MASTER_PORT")
    assert (free.found, free.mend) == (f"{port}: free", "")
    assert only(machine.ports(), "ports").mend == ""


def test_compilers(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert (
        checks.cxx_compiler()
        == "no C++ compiler is found: apt-get install g++, or let CXX name one"
    )
    assert only(machine.compilers(), "C++ compiler").found == "not found"
    monkeypatch.setenv("CXX", "mycc -O2")
    assert "CXX='mycc -O2' names no compiler" in checks.cxx_compiler()
    for name in ("mycc", "ninja"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        os.chmod(tmp_path / name, 0o755)
    assert checks.cxx_compiler() is None
    assert checks.ninja() is None
    assert [fact.mend for fact in machine.compilers()] == ["", ""]


def test_torch_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(machine.probes, "torch_build", lambda: None)
    (fact,) = machine.torch()
    assert (fact.found, fact.mend) == ("not installed", "pip install torch")
