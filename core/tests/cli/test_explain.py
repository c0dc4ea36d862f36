from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from torchrelay.cli import main
from torchrelay.plugin.registry import get_registry
from torchrelay.plugin.scan import core_version

PLUGIN = """
@hookimpl
def torchrelay_strategies():
    yield StrategySpec(alias="acme", target="acme_code:Acme", description="A.", accelerators=("npu",))
    yield StrategySpec(alias="sdk", target="acme_code:Acme", description="A.",
                       requires=(Requirement(module="no_such_sdk", install="run install-sdk"),))

@hookimpl
def torchrelay_accelerators():
    yield AcceleratorSpec(name="npu", target="acme_code:N", probe="npu_probe:npu", description="N.",
                          priority=90, default_strategy="acme")
"""
PROBE = "from torchrelay.plugin import Hardware\ndef npu(): return Hardware(count=4)"


@pytest.fixture
def npu(site, monkeypatch):
    """A distribution with an accelerator of four devices, and code that must not be imported."""
    files = {"npu_probe.py": PROBE, "acme_code.py": "raise RuntimeError('imported')"}
    site.plugin("acme-npu", PLUGIN, version="2.1", files=files)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    get_registry.cache_clear()
    yield site
    get_registry.cache_clear()


def test_the_choices_and_their_reasons(npu, capsys):
    assert main(["explain", "--devices", "0,2", "--precision", "bf16"]) == 0
    assert capsys.readouterr().out == (
        "accelerator: npu (the best that is available)\n"
        "cluster environment: local (no cluster's variables are set)\n"
        "num_nodes: 1 (nothing else is asked for)\n"
        "devices: [0, 2] (asked for)\n"
        "strategy: acme of acme-npu 2.1 (the default of accelerator npu)\n"
        "precision: bf16-mixed (asked for)\n"
    )


def test_json(npu, capsys):
    assert main(["explain", "--accelerator", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    reasons = found.pop("reasons")
    assert found == {
        "accelerator": "cpu",
        "cluster_environment": "local",
        "num_nodes": 1,
        "devices": [0],
        "strategy": "single_device",
        "distribution": "torchrelay",
        "precision": "32-true",
    }
    assert reasons[-2] == f"strategy: single_device of torchrelay {core_version()} (one device)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "acne"], "no strategy is called 'acne', did you mean 'acme'?"),
        (["--strategy", "acme", "--accelerator", "cpu"], "not for accelerator 'cpu', only for npu"),
        (["--strategy", "sdk", "--accelerator", "cpu"], "run install-sdk"),
        (["--devices", "9", "--accelerator", "npu"], "there are only 4"),
        (["--devices", "many"], "no way to ask for"),
        (["--num-nodes", "many"], "num_nodes='many'"),
        (["--num-nodes", "-3"], "num_nodes=-3"),
        (["--num-nodes", "2"], "2 machines"),
        (["--precision", "3"], "no precision is called '3'"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments, message, npu, capsys):
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("torchrelay: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_build_refuses_what_only_the_strategy_knows(monkeypatch, capsys):
    pytest.importorskip("torch")
    arguments = ["explain", "--strategy", "single_device", "--accelerator", "cpu", "--devices", "2"]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--build"]) == 2
    assert "SingleDeviceStrategy cannot do this: devices=2" in capsys.readouterr().err


@pytest.mark.timeout(120)
def test_it_says_what_the_trainer_says():
    pytest.importorskip("torch")
    code = (
        "from torchrelay import Trainer; print(Trainer(precision='bf16', logger=False).explain())"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torchrelay.cli", "explain", "--precision", "bf16"]
    said = [
        subprocess.run(words, env=environ, capture_output=True, text=True, check=True).stdout
        for words in (command, [sys.executable, "-c", code])
    ]
    assert said[0] == said[1] != ""
