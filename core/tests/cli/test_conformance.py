"""`torchrelay conformance`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchrelay.cli import conformance
from torchrelay.errors import UnknownNameError


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    conformance.add(parser.add_subparsers())
    arguments = parser.parse_args(["conformance", *words])
    return arguments.run(arguments)


def test_a_conforming_strategy(tmp_path: Path, capsys: Any) -> None:
    report = tmp_path / "report"
    words = ("--accelerator", "cpu", "--family", "declaration", "--report", str(report))
    assert command("single_device", *words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "Conformance of single_device (cpu, devices=1)"
    assert out[1].split() == ["family", "check", "result"]
    assert out[2].split() == ["declaration", "entry_point_found", "passed"]
    assert out[-1] == f"single_device conforms: {len(out) - 4} passed"
    assert json.loads((tmp_path / "report.json").read_text())["conforms"] is True
    assert "**conforms**" in (tmp_path / "report.md").read_text()


def test_one_that_does_not(capsys: Any) -> None:
    assert command("sinlge_device", "--accelerator", "cpu", "--family", "declaration") == 1
    out = capsys.readouterr().out
    assert "did you mean 'single_device'" in out
    assert "\nTo change: " in out
    assert out.rstrip().splitlines()[-1].startswith("sinlge_device does not conform: ")


def test_json(capsys: Any) -> None:
    words = ("--accelerator", "cpu", "--family", "declaration", "--json")
    assert command("single_device", *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["subject"]["strategy"] == "single_device"
    assert {check["family"] for check in found["checks"]} == {"declaration"}


def test_an_unknown_family() -> None:
    with pytest.raises(UnknownNameError, match="no family 'all'"):
        command("single_device", "--family", "all")


def test_it_needs_neither_pytest_nor_torch_to_be_asked_for_help() -> None:
    code = (
        "import argparse, sys; from torchrelay.cli import conformance as c; p = argparse.ArgumentParser(); "
        "c.add(p.add_subparsers()); from torchrelay.testing import Kit; import torchrelay.testing.families as f; "
        "assert 'torch' not in sys.modules; f.all_checks(); assert 'pytest' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
