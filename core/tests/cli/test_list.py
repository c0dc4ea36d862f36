from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from torchrelay.cli import main
from torchrelay.plugin.registry import get_registry
from torchrelay.plugin.scan import core_version

PLUGIN = """
@hookimpl
def torchrelay_strategies():
    return [
        StrategySpec(alias="fast", target="m:Fast", description="Fast."),
        StrategySpec(alias="npu_only", target="m:NPU", description="NPU.", accelerators=("npu",)),
        StrategySpec(alias="orphan", target="m:O", description="O.", accelerators=("zpu",)),
        StrategySpec(alias="not_here", target="m:N", description="N.", refusals={"cpu": "why"}),
        StrategySpec(alias="sdk", target="m:SDK", description="SDK.",
                     requires=(Requirement(module="no_such_sdk", install="run install-sdk"),)),
    ]

@hookimpl
def torchrelay_accelerators():
    return [AcceleratorSpec(name="npu", target="m:A", probe="acme_probe:npu", description="NPU.")]
"""
PROBE = "from torchrelay.plugin import Hardware\ndef npu(): return Hardware(count=0, reason='unplugged')"


@pytest.fixture
def listed(site, monkeypatch):
    """A process that sees one good plugin, a broken one and a disabled one beside what is installed."""
    site.plugin("acme-npu", PLUGIN, version="2.1", files={"acme_probe.py": PROBE})
    site.plugin("acme-broken", "import no_such_sdk")
    site.plugin("acme-off", PLUGIN)
    monkeypatch.setenv("TORCHRELAY_DISABLE_PLUGINS", "acme-off")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    get_registry.cache_clear()
    yield site
    get_registry.cache_clear()


def by(rows, key):
    return {row[key]: row for row in rows if row["distribution"].startswith(("acme", "torchrelay"))}


def test_json(listed, capsys):
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"strategies", "accelerators", "troubles"}
    strategies = by(found["strategies"], "alias")
    assert strategies["fast"] == {
        "alias": "fast",
        "strategy": "Fast",
        "accelerators": "any",
        "distribution": "acme-npu",
        "version": "2.1",
        "usable": True,
        "reason": "",
        "description": "Fast.",
    }
    assert strategies["single_device"]["usable"]
    assert strategies["single_device"]["version"] == core_version()
    reasons = {a: row["reason"] for a, row in strategies.items() if not row["usable"]}
    assert reasons["npu_only"] == "npu: unplugged"
    assert reasons["orphan"] == "zpu: no plugin brings this accelerator"
    assert reasons["sdk"] == "needs no_such_sdk: run install-sdk"
    assert "npu: unplugged" in reasons["not_here"]
    assert "cpu: " not in reasons["not_here"]
    assert strategies["not_here"]["accelerators"] == "any but cpu"
    accelerators = by(found["accelerators"], "accelerator")
    assert accelerators["cpu"]["devices"] >= 1
    assert (accelerators["npu"]["devices"], accelerators["npu"]["reason"]) == (0, "unplugged")
    troubles = by(found["troubles"], "distribution")
    assert troubles["acme-broken"]["stage"] == "import"
    assert "No module named 'no_such_sdk'" in troubles["acme-broken"]["cause"]
    assert troubles["acme-off"]["stage"] == "disabled"
    assert "TORCHRELAY_DISABLE_PLUGINS" in troubles["acme-off"]["cause"]


def test_text(listed, capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for title in ("Strategies", "Accelerators", "Broken or disabled plugins"):
        assert title in lines
    rows = [line.split(maxsplit=2) for line in lines if line]
    assert ["fast", "Fast"] in [row[:2] for row in rows]
    fast = next(line for line in lines if line.startswith("fast "))
    assert fast.split()[2:] == ["any", "acme-npu", "2.1", "yes"]
    npu = next(line for line in lines if line.startswith("npu_only "))
    assert npu.endswith("no: npu: unplugged")
    header = lines[1]
    assert header.split() == ["alias", "class", "accelerators", "from", "usable", "here"]
    assert header.index("from") == fast.index("acme-npu")
    assert all(line == line.rstrip() for line in lines)


def test_a_section_without_rows_is_left_out(monkeypatch, capsys):
    monkeypatch.setenv("TORCHRELAY_DISABLE_PLUGINS", "")
    get_registry.cache_clear()
    troubles = bool(get_registry().failures)
    main(["list"])
    assert ("Broken or disabled plugins" in capsys.readouterr().out) == troubles
    get_registry.cache_clear()


@pytest.mark.timeout(60)
def test_it_imports_neither_torch_nor_a_strategy(listed):
    code = (
        "import sys; from torchrelay.cli import main; code = main(['list'])\n"
        "heavy = {'torch', 'numpy', 'rich', 'torchrelay.strategies', 'm'} & set(sys.modules)\n"
        "print(code, heavy, file=sys.stderr)"
    )
    environ = {**os.environ, "PYTHONPATH": str(listed.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "0 set()\n")
    assert "acme-npu 2.1" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.timeout(60)
def test_in_a_terminal_it_says_the_same(listed):
    """Through rich where it is installed; nothing of a plugin's text is taken for markup."""
    environ = {**os.environ, "PYTHONPATH": str(listed.path), "COLUMNS": "300", "TERM": "xterm"}
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "torchrelay.cli", "list"], env=environ, stdout=slave
    ) as process:
        os.close(slave)
        out = b""
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # Linux's way of saying that the other end is closed
                break
            if not chunk:
                break
            out += chunk
    os.close(master)
    assert process.returncode == 0
    text = out.decode()
    for word in ("single_device", "acme-npu 2.1", "no: npu: unplugged", "no_such_sdk"):
        assert word in text
