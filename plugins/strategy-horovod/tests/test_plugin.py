"""What the distribution says of itself, which costs no torch and no Horovod to hear, and the command that builds it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import torchrelay.strategies
import torchrelay_horovod
from torchrelay.errors import UnavailableError
from torchrelay.plugin.catalogue import BACKENDS
from torchrelay.plugin.targets import missing
from torchrelay_horovod import build, cli, vendor
from torchrelay_horovod.plugin import (
    CAPABILITIES,
    torchrelay_cluster_environments,
    torchrelay_diagnostics,
    torchrelay_strategies,
)

COMMAND = str(Path(sysconfig.get_path("scripts")) / "torchrelay-horovod")


def test_it_gives_the_alias_that_the_catalogue_says():
    (backend,) = [each for each in BACKENDS if each.extra == "horovod"]
    (spec,) = torchrelay_strategies()
    assert backend.published
    assert backend.aliases == (spec.alias,) == ("horovod",)


def test_the_alias_stands_for_the_class():
    (spec,) = torchrelay_strategies()
    kind = torchrelay_horovod.HorovodStrategy
    assert torchrelay.strategies.HorovodStrategy is kind
    assert spec.target == "torchrelay_horovod.strategy:HorovodStrategy"
    assert spec.capabilities is CAPABILITIES is kind.capabilities


def test_the_environment_comes_before_a_cluster_s_and_after_torchrun_s():
    (spec,) = torchrelay_cluster_environments()
    assert spec.name == torchrelay_horovod.HorovodEnvironment.name
    assert 40 < spec.priority < 50


def test_without_horovod_the_spec_names_the_command(monkeypatch):
    (spec,) = torchrelay_strategies()
    for name in [name for name in sys.modules if name.partition(".")[0] == "horovod"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (need,) = missing(spec.requires)
    assert need.install == "torchrelay-horovod build"


@pytest.mark.parametrize("module", ["plugin", "environment"])
def test_hearing_of_it_imports_neither_torch_nor_horovod(module):
    code = (
        f"import sys, torchrelay_horovod.{module}, torchrelay_horovod.plugin as plugin; "
        "list(plugin.torchrelay_strategies()), list(plugin.torchrelay_diagnostics()); "
        "sys.exit(bool({'torch', 'horovod'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_making_a_strategy_imports_no_horovod():
    code = (
        "import sys, torchrelay_horovod as package; package.HorovodStrategy(); "
        "sys.exit('horovod' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the doctor -----------------------------------------------------------------------------------------


class Built:
    """What a build of Horovod says of itself."""

    def __init__(self, gloo=True, mpi=False):
        self.gloo_built, self.mpi_built = lambda: gloo, lambda: mpi


def test_the_check_of_the_machine_can_be_made():
    first, _ = torchrelay_diagnostics()
    assert first.target == "torchrelay_horovod.vendor:examined"
    assert vendor.version() == vendor.TESTED
    assert vendor.examined() is None
    assert vendor.gloo_built()
    assert not vendor.mpi_built()


def complaint():
    """What is wrong, and that it ends with the recipe."""
    text = vendor.examined()
    assert text is not None
    assert "\n" not in text
    what, _, recipe = text.partition(": torchrelay-horovod build; by hand: ")
    assert "HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1" in recipe
    assert "pip wheel --no-build-isolation --no-deps horovod==0.28.1" in recipe
    return what


def test_no_horovod_is_told(monkeypatch):
    monkeypatch.setattr(vendor, "version", lambda: None)
    assert complaint() == "Horovod is not installed, and has no wheels"


def test_a_build_without_torch_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert complaint().startswith("Horovod 0.28.1 is built without torch")


def test_a_build_for_another_torch_is_told(monkeypatch):
    def broken():
        raise ImportError("undefined symbol: _ZN3c10\nmore")

    monkeypatch.setattr(vendor, "_hvd", broken)
    assert "was built for another torch than" in complaint()
    assert complaint().endswith("(undefined symbol: _ZN3c10)")


@pytest.mark.parametrize(
    ("gloo", "mpi", "well"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_a_build_by_which_nobody_can_meet_is_told(monkeypatch, gloo, mpi, well):
    monkeypatch.setattr(vendor, "_hvd", lambda: Built(gloo, mpi))
    if well:
        assert vendor.examined() is None
    else:
        assert complaint() == "Horovod 0.28.1 is built with neither gloo nor MPI"


def test_a_release_that_was_not_run_is_told(monkeypatch):
    monkeypatch.setattr(vendor, "version", lambda: "0.29.0")
    assert complaint() == "Horovod 0.29.0 is not the release that was run, 0.28.1"


# --- the build ------------------------------------------------------------------------------------------


@pytest.fixture
def pip(monkeypatch):
    """pip's calls, of which `wheel` leaves a wheel."""
    calls = []

    def record(*arguments, env=None):
        calls.append((arguments, env))
        if arguments[0] == "wheel":
            folder = Path(arguments[arguments.index("--wheel-dir") + 1])
            tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
            (folder / f"horovod-0.28.1-{tag}-{tag}-linux_x86_64.whl").touch()

    monkeypatch.setattr(build, "_pip", record)
    for name in [name for name in build.os.environ if name.startswith("HOROVOD_")]:
        monkeypatch.delenv(name)
    return calls


def test_it_is_built_once(pip, tmp_path):
    build.build(tmp_path, jobs=3)
    tools, wheel, install, again = pip
    assert tools[0][:2] == ("install", "--target")
    assert "setuptools==80.10.2" in tools[0]
    assert {"--no-build-isolation", "horovod==0.28.1"} <= set(wheel[0])
    for name, value in build.OPTIONS.items():
        assert wheel[1][name] == value
    assert wheel[1]["MAKEFLAGS"] == "-j3"
    assert wheel[1]["CXX"].endswith("/cxx17")
    assert "PIP_CONSTRAINT" not in wheel[1]
    assert "--force-reinstall" in install[0]
    assert again[0][1].startswith(str(tmp_path))
    pip.clear()
    build.build(tmp_path, jobs=3)
    assert [arguments[0] for arguments, _ in pip] == ["install", "install"]


def test_options_of_the_user_s_own_are_built_anew(pip, tmp_path, monkeypatch):
    build.build(tmp_path, jobs=1)
    pip.clear()
    monkeypatch.setenv("HOROVOD_WITH_MPI", "1")
    build.build(tmp_path, jobs=1)
    (variables,) = [env for arguments, env in pip if arguments[0] == "wheel"]
    assert variables["HOROVOD_WITH_MPI"] == "1"
    assert "HOROVOD_WITHOUT_MPI" not in variables
    assert variables["HOROVOD_WITH_GLOO"] == "1"


def test_a_wheel_of_another_torch_is_none(pip, tmp_path, monkeypatch):
    build.build(tmp_path, jobs=1)
    pip.clear()
    monkeypatch.setattr(build, "_torch", lambda: "9.9.9")
    build.build(tmp_path, jobs=1)
    assert "wheel" in [arguments[0] for arguments, _ in pip]
    assert len(list(tmp_path.glob("torch-*/*.whl"))) == 2


def test_without_a_compiler_it_says_so(pip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        build, "cxx_compiler", lambda: "no C++ compiler is found: apt-get install g++"
    )
    with pytest.raises(UnavailableError, match="apt-get install"):
        build.build(tmp_path, jobs=1)
    assert cli.main(["build", "--wheels", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "torchrelay-horovod: error: no C++ compiler is found: apt-get install g++\n"
    )
    assert not pip


def test_pip_s_failure_is_the_command_s(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(build, "TOOLS", ("--no-such-option",))
    assert cli.main(["build", "--wheels", str(tmp_path)]) == 2
    assert "pip install ended with status 2" in capfd.readouterr().err


def test_the_recipe_is_shown():
    done = subprocess.run([COMMAND, "build", "--show"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == build.recipe().splitlines()


def test_the_folder_of_wheels_is_the_user_s_choice(monkeypatch):
    monkeypatch.setenv(build.WHEELS, "somewhere")
    assert build.default_folder() == Path("somewhere")
    monkeypatch.delenv(build.WHEELS)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert build.default_folder() == Path("cache", "torchrelay", "horovod")
