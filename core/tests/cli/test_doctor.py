from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from torchrelay.cli import main
from torchrelay.plugin.catalogue import BACKENDS
from torchrelay.plugin.installing import install_backend
from torchrelay.plugin.registry import get_registry
from torchrelay.plugin.scan import core_version, version_of

GOOD = """
@hookimpl
def torchrelay_strategies():
    return [StrategySpec(alias="{alias}", target="{target}", description="Fast.", **{more})]
"""
STRATEGY = "class Fast:\n    pass\n"


def strategy(alias="fast", target="fast_code:Fast", more="{}"):
    return GOOD.format(alias=alias, target=target, more=more)


@pytest.fixture
def doctor(site, monkeypatch, capsys):
    """Runs the doctor on some plugins and returns its exit code and its report."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("TORCHRELAY_DISABLE_PLUGINS", raising=False)

    def run(*plugins):
        get_registry.cache_clear()
        code = main(["doctor", "--json", *plugins])
        return code, json.loads(capsys.readouterr().out)

    yield run
    get_registry.cache_clear()


def of(report, distribution):
    (found,) = [each for each in report["plugins"] if each["distribution"] == distribution]
    return found


STEPS = ["installed", "declared", "importable", "SDK found", "hardware found", "usable"]


def test_a_plugin_that_works_has_passed_every_step(site, doctor):
    site.plugin("acme-good", strategy(), version="2.1", files={"fast_code.py": STRATEGY})
    code, report = doctor("acme-good")
    assert (code, report["broken"], len(report["plugins"])) == (0, False, 1)
    found = of(report, "acme-good")
    assert found["steps"] == dict.fromkeys(STEPS, True)
    assert (found["result"], found["cause"], found["mend"]) == ("usable", "", "")
    assert (found["plugin"], found["version"], found["broken"]) == ("good", "2.1", False)
    assert 0 < found["import_seconds"] < 5


BROKEN = {
    "raises at import": (
        {"code": "raise RuntimeError('no driver')"},
        "importable",
        "RuntimeError: no driver",
        "pip install --upgrade --force-reinstall --no-deps acme-bad",
    ),
    "lacks a module of somebody else": (
        {"code": "import not_there"},
        "importable",
        "No module named 'not_there'",
        "pip install acme-bad",
    ),
    "lacks a module of its own": (
        {"code": "import acme_bad_plugin.strategy"},
        "importable",
        "No module named 'acme_bad_plugin",
        "pip install --upgrade --force-reinstall --no-deps acme-bad",
    ),
    "has a bad hook signature": (
        {"code": "@hookimpl\ndef torchrelay_strategies(trainer): return []"},
        "importable",
        "'trainer'",
        "pip install --upgrade acme-bad, or tell its authors",
    ),
    "has a hook that raises": (
        {"code": "@hookimpl\ndef torchrelay_strategies(): raise KeyError('x')"},
        "importable",
        "KeyError: 'x'",
        "pip install --upgrade acme-bad, or tell its authors",
    ),
    "returns a bad spec": (
        {"code": "@hookimpl\ndef torchrelay_strategies(): return [5]"},
        "importable",
        "item of type int",
        "pip install --upgrade acme-bad, or tell its authors",
    ),
    "was written for a future contract": (
        {"code": "raise SystemExit('imported')", "contract": "v99"},
        "declared",
        "written for contract v99",
        "pip install --upgrade torchrelay",
    ),
    "was written for no contract": (
        {"code": "raise SystemExit('imported')", "contract": ""},
        "declared",
        "it does not state",
        "pip install --upgrade acme-bad",
    ),
    "needs an SDK that is missing": (
        {
            "code": strategy(
                more="dict(requires=(Requirement(module='no_sdk', install='run install-sdk'),))"
            )
        },
        "SDK found",
        "needs no_sdk, which is not here",
        "run install-sdk",
    ),
    "offers a target that does not import": (
        {"code": strategy(target="bad_code:Bad"), "files": {"bad_code.py": "1 / 0"}},
        "usable",
        "ZeroDivisionError",
        "pip install --upgrade --force-reinstall --no-deps acme-bad",
    ),
    "offers a target that is not there": (
        {"code": strategy(target="bad_code:Gone"), "files": {"bad_code.py": ""}},
        "usable",
        "bad_code has no 'Gone'",
        "pip install --upgrade --force-reinstall --no-deps acme-bad",
    ),
    "ends the process while a target is imported": (
        {
            "code": strategy(target="bad_code:Bad"),
            "files": {"bad_code.py": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"},
        },
        "usable",
        "bad_code:Bad ended the process (SIGKILL)",
        "pip install --upgrade --force-reinstall --no-deps acme-bad",
    ),
    "exits while a target is imported": (
        {"code": strategy(target="bad_code:Bad"), "files": {"bad_code.py": "raise SystemExit(3)"}},
        "usable",
        "SystemExit: 3",
        "pip install --upgrade --force-reinstall --no-deps acme-bad",
    ),
}


@pytest.mark.parametrize("trouble", BROKEN)
def test_the_first_step_that_fails_is_named_with_its_cause_and_cure(trouble, site, doctor):
    plugin, step, cause, mend = BROKEN[trouble]
    site.plugin("acme-bad", **plugin)
    site.plugin("acme-good", strategy("other"), files={"fast_code.py": STRATEGY})
    code, report = doctor("acme-bad", "good")
    found = of(report, "acme-bad")
    assert (found["failed"], found["result"], found["mend"]) == (step, f"not {step}", mend)
    assert cause in found["cause"]
    assert "\n" not in found["cause"]
    place = STEPS.index(step)
    expected = [True] * place + [False] + [None] * (len(STEPS) - place - 1)
    assert list(found["steps"].values()) == expected
    assert (code, report["broken"], found["broken"]) == (1, True, True)
    assert of(report, "acme-good")["result"] == "usable"


def test_metadata_that_cannot_be_read(site, doctor):
    info = site.distribution("acme-torn", entries="[torchrelay]\ntorn = torn_plugin\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\n")
    code, report = doctor(str(info))
    (found,) = report["plugins"]
    assert found["failed"] == "installed"
    assert "its metadata states no name and version" in found["cause"]
    assert found["mend"] == f"rm -r {info}, and install it again"
    assert code == 1


def test_a_backend_of_the_family_that_declares_nothing_is_broken(site, doctor):
    absent = next(b for b in BACKENDS if version_of(b.distribution) == "absent")
    site.distribution(absent.distribution, "0.3")
    code, report = doctor(absent.extra)
    found = of(report, absent.distribution)
    assert (found["failed"], found["version"], code) == ("declared", "0.3", 1)
    assert found["cause"] == "it is installed, but declares no plugin"


def test_what_is_not_installed_or_switched_off_or_without_device_is_not_broken(
    site, doctor, monkeypatch
):
    npu = strategy("npu_fast", more="dict(accelerators=('npu',))")
    npu += (
        "@hookimpl\ndef torchrelay_accelerators():\n"
        "    yield AcceleratorSpec(name='npu', target='no_code:A', probe='npu_probe:probe', description='NPU.')\n"
    )
    probe = "from torchrelay.plugin import Hardware\ndef probe(): return Hardware(count=0, reason='unplugged')"
    site.plugin("acme-npu", npu, files={"npu_probe.py": probe})
    site.plugin("acme-off", "raise RuntimeError('imported')")
    monkeypatch.setenv("TORCHRELAY_DISABLE_PLUGINS", "acme-off,something")
    absent = [each for each in BACKENDS if version_of(each.distribution) == "absent"]
    code, report = doctor("npu", "off", *(each.extra for each in absent))
    device, off = of(report, "acme-npu"), of(report, "acme-off")
    assert (device["result"], device["cause"]) == ("not hardware found", "npu: unplugged")
    assert (off["result"], off["mend"]) == (
        "disabled",
        "export TORCHRELAY_DISABLE_PLUGINS=something",
    )
    for backend in absent:
        found = of(report, backend.distribution)
        assert (found["failed"], found["broken"]) == ("installed", False)
        assert found["mend"] == (install_backend(backend) if backend.published else "")
    assert (code, report["broken"], device["broken"], off["broken"]) == (0, False, False, False)


def test_an_sdk_that_is_there_is_shown_with_its_version(site, doctor):
    more = "dict(requires=(Requirement(module='acmesdk.core', install='get it'),))"
    site.plugin("acme-good", strategy(more=more), files={"fast_code.py": STRATEGY})
    site.write("acmesdk/core.py", "raise RuntimeError('imported')")
    site.distribution("acmesdk", "7.8")
    _, report = doctor("good")
    assert of(report, "acme-good")["sdks"] == {"acmesdk.core": "7.8"}
    assert of(report, "acme-good")["result"] == "usable"


def test_a_slow_plugin_and_a_contested_alias_are_noted(site, doctor):
    slow = "import time; time.sleep(0.4)\n" + strategy("same")
    site.plugin("acme-slow", slow, files={"fast_code.py": STRATEGY})
    site.plugin("acme-rival", strategy("same"))
    _, report = doctor("slow", "rival")
    notes = of(report, "acme-slow")["notes"]
    assert len(notes) == 2
    assert notes[0].startswith("slow: importing acme_slow_plugin takes 0.")
    assert notes[1] == (
        "alias 'same' is provided by acme-rival as well; write strategy='acme-slow:same'"
    )
    assert of(report, "acme-slow")["result"] == "usable"
    assert not any(note.startswith("slow") for note in of(report, "acme-rival")["notes"])


def test_the_checks_of_plugins_are_made_behind_a_guard(site, doctor):
    checks = strategy() + (
        "@hookimpl\ndef torchrelay_diagnostics():\n"
        "    for name in ('fine', 'wrong', 'raises', 'odd', 'prints'):\n"
        "        yield DiagnosticSpec(name=name, target=f'acme_checks:{name}', description='A check.')\n"
    )
    code = """
        def fine(): return None
        def wrong(): return "the driver is old:\\n upgrade it"
        def raises(): raise OSError("no device")
        def odd(): return 5
        def prints(): print('{"not": "an answer"}')
        """
    site.plugin("acme-good", checks, files={"fast_code.py": STRATEGY, "acme_checks.py": code})
    exit_code, report = doctor("good")
    made = {c["name"]: c["complaint"] for c in report["checks"] if c["distribution"] == "acme-good"}
    assert made["fine"] == made["prints"] == ""
    assert made["wrong"] == "the driver is old: upgrade it"
    assert made["raises"].startswith("OSError: no device")
    assert made["odd"] == "returned 5, no text"
    found = of(report, "acme-good")
    assert (found["failed"], found["cause"]) == (
        "usable",
        "its check wrong finds: the driver is old: upgrade it",
    )
    assert exit_code == 1


def test_an_optional_check_breaks_nothing(site, doctor, capsys):
    checks = strategy() + (
        "@hookimpl\ndef torchrelay_diagnostics():\n"
        "    yield DiagnosticSpec(name='disk', target='acme_checks:disk', description='A check.', optional=True)\n"
    )
    code = "def disk(): return 'there is no disk: buy one'"
    site.plugin("acme-good", checks, files={"fast_code.py": STRATEGY, "acme_checks.py": code})
    exit_code, report = doctor("good")
    assert exit_code == 0
    assert of(report, "acme-good")["result"] == "usable"
    (made,) = report["checks"]
    assert (made["complaint"], made["optional"]) == ("there is no disk: buy one", True)
    get_registry.cache_clear()
    assert main(["doctor", "good"]) == 0
    assert "optional: there is no disk: buy one" in capsys.readouterr().out


def test_the_text_is_plain_and_stable(site, monkeypatch, capsys):
    site.plugin("acme-good", strategy(), files={"fast_code.py": STRATEGY})
    site.plugin("acme-bad", "", contract="v99")
    site.plugin("acme-off", "")
    monkeypatch.setenv("TORCHRELAY_DISABLE_PLUGINS", "off")
    get_registry.cache_clear()
    assert main(["doctor", "good", "acme-bad", "OFF"]) == 1
    get_registry.cache_clear()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Plugins"
    assert lines[1].split() == ["plugin", "from", "result", "why", "what", "to", "do"]
    columns = [lines[1].index(word) for word in ("plugin", "from", "result", "why", "what")]
    rows = {
        line[columns[1] : columns[2]].split()[0]: [
            line[start:end].rstrip()
            for start, end in zip(columns, [*columns[1:], None], strict=True)
        ]
        for line in lines[2 : lines.index("")]
    }
    assert rows["acme-good"] == ["good", "acme-good 1.0", "usable", "", ""]
    assert rows["acme-bad"] == [
        "bad",
        "acme-bad 1.0",
        "not declared",
        f"it does not fit this torchrelay: written for contract v99, while torchrelay {core_version()} knows v1; "
        "pip install --upgrade torchrelay",
        "pip install --upgrade torchrelay",
    ]
    assert rows["acme-off"] == [
        "off",
        "acme-off 1.0",
        "disabled",
        "the environment variable TORCHRELAY_DISABLE_PLUGINS switches it off",
        "unset TORCHRELAY_DISABLE_PLUGINS",
    ]
    machine = lines[lines.index("Machine") :]
    assert machine[1].split() == ["what", "found", "what", "to", "do"]
    assert machine[2].startswith("Python ")
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.timeout(120)
def test_the_doctors_own_process_imports_no_torch(site):
    site.plugin("acme-good", strategy(), files={"fast_code.py": "import json"})
    code = (
        "import sys; from torchrelay.cli import main; main(['doctor', 'acme-good'])\n"
        "print({'torch', 'numpy', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site.path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "set()")


@pytest.mark.timeout(300)
def test_everything_that_is_installed_here_works(doctor):
    pytest.importorskip("torch")
    code, report = doctor()
    broken = [each for each in report["plugins"] if each["broken"]]
    # A vendor's SDK that is on no index may be wanting where its plugin is tested on a simulator, and is told of.
    wanting = [each for each in broken if each["failed"] == "SDK found"]
    assert [each["cause"] for each in broken if each not in wanting] == []
    assert all(each["cause"].startswith("needs ") and each["mend"] for each in wanting)
    assert of(report, "torchrelay")["result"] == "usable"
    assert {each["distribution"] for each in report["plugins"]} >= {
        b.distribution for b in BACKENDS
    }
    assert code == bool(wanting)


def test_an_unknown_plugin_is_refused(capsys):
    assert main(["doctor", "no-such-thing"]) == 2
    assert "no-such-thing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ddp_sharded_spawn", "fairscale", "torchrelay-fairscale"])
def test_a_plugin_is_found_by_what_it_is_called_and_by_its_strategies(doctor, name):
    _, report = doctor(name)
    assert [each["distribution"] for each in report["plugins"]] == ["torchrelay-fairscale"]
