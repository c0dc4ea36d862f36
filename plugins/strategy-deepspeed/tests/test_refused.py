"""What of the machine is looked at before any process starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from torchrelay.plugin import checks
from torchrelay_deepspeed import DeepSpeedConfig, Named, Offload, vendor
from torchrelay_deepspeed.raw import RawConfig
from torchrelay_deepspeed.refused import (
    async_io,
    compilers,
    libaio,
    offload_folders,
    refusals,
    stale_locks,
)

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def config(**arguments) -> RawConfig:
    return RawConfig(DeepSpeedConfig(**arguments).as_dict(), "DeepSpeedConfig")


def on_disk(path) -> RawConfig:
    disk = Offload(device="nvme", path=path)
    return config(stage=3, offload_optimizer=disk, offload_parameters=disk)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without programs, and without extensions that were built."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return tmp_path


def test_a_folder_that_can_be_written_is_fine(tmp_path):
    assert list(offload_folders(on_disk(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path):
    (tmp_path / "file").touch()
    for path, trouble in (
        (tmp_path / "none", "which does not exist"),
        (tmp_path / "file", "which is no folder"),
    ):
        (told,) = offload_folders(on_disk(path))
        assert told.startswith(f"DeepSpeedConfig offloads to {str(path)!r}, {trouble}; name a fold")


@LINUX
def test_a_folder_that_root_cannot_write_either():
    (told,) = offload_folders(on_disk("/proc"))
    assert "'/proc', which cannot be written (" in told


def test_cpu_memory_needs_no_folder():
    assert list(offload_folders(config(offload_optimizer=Offload()))) == []


@pytest.mark.parametrize(
    ("arguments", "accelerator", "extensions"),
    [
        ({}, "cpu", ["deepspeed_shm_comm"]),
        ({}, "cuda", []),
        ({"optimizer": Named("Adam")}, "cuda", []),
        ({"optimizer": Named("Adam", {"torch_adam": False})}, "cuda", ["fused_adam"]),
        ({"optimizer": Named("Lion")}, "cuda", ["fused_lion"]),
        ({"optimizer": Named("SGD")}, "cuda", []),
        ({"optimizer": Named("AdamW"), "offload_optimizer": Offload()}, "cuda", ["cpu_adam"]),
        ({"offload_optimizer": Offload()}, "cuda", []),
        (
            {"stage": 3, "offload_parameters": Offload(device="nvme", path="/d")},
            "cuda",
            ["pin_memory", "async_io"],
        ),
    ],
)
def test_what_a_run_compiles(arguments, accelerator, extensions):
    assert list(vendor.compiles(config(**arguments), accelerator)) == extensions


def test_the_extensions_have_deepspeed_s_names():
    from deepspeed.ops.op_builder import cpu
    from deepspeed.ops.op_builder.fused_lamb import FusedLambBuilder
    from deepspeed.ops.op_builder.fused_lion import FusedLionBuilder

    builders = (
        cpu.AsyncIOBuilder,
        cpu.CPUAdagradBuilder,
        cpu.CPUAdamBuilder,
        cpu.CPULionBuilder,
        cpu.FusedAdamBuilder,
        cpu.PinMemoryBuilder,
        cpu.ShareMemCommBuilder,
        FusedLambBuilder,
        FusedLionBuilder,
    )
    assert {builder.NAME for builder in builders} == set(vendor.EXTENSIONS)


def test_without_a_compiler_and_ninja_both_are_told(bare):
    told = list(compilers(["cpu_adam", "async_io"]))
    assert len(told) == 2
    assert all(each.startswith("DeepSpeed compiles cpu_adam and async_io when") for each in told)
    assert "ninja is not found: pip install ninja" in told[0]
    assert "no C++ compiler is found: apt-get install g++" in told[1]


def test_an_extension_that_was_built_needs_no_compiler(bare):
    for folder in ("cpu_adam", "py311_cpu/async_io"):
        name = folder.rpartition("/")[2]
        (bare / "extensions" / folder).mkdir(parents=True)
        (bare / "extensions" / folder / f"{name}.so").touch()
    (told,) = compilers(["cpu_adam", "async_io"])
    assert "ninja" in told


def test_what_compiles_nothing_needs_neither(bare):
    assert list(compilers([])) == []


@pytest.mark.skipif(checks.find_cxx_compiler() is None, reason="needs a C++ compiler")
class TestLibaio:
    def test_its_lack_is_told_with_the_package(self, monkeypatch):
        monkeypatch.setenv("CFLAGS", "-nostdinc")  # where it is installed, it is not to be found
        (told,) = async_io(on_disk("/disk"))
        assert told.startswith("DeepSpeedConfig offloads to NVMe: libaio's ")
        assert "apt-get install libaio-dev" in told

    def test_it_is_not_looked_for_where_nothing_goes_to_nvme(self, bare):
        assert list(async_io(config(offload_optimizer=Offload()))) == []

    def test_headers_and_library_are_each_looked_for(self, tmp_path, monkeypatch):
        source = 'extern "C" int io_submit(int, int, int) { return 0; }\n'
        header = 'extern "C" int io_submit(int, int, int);\n'
        build = [checks.find_cxx_compiler(), "-x", "c++", "-", "-shared", "-fPIC"]
        lib = tmp_path / "lib"
        lib.mkdir()
        subprocess.run([*build, "-o", lib / "libaio.so"], input=source, text=True, check=True)
        (tmp_path / "libaio.h").write_text(header)
        monkeypatch.setenv("CFLAGS", f"-I{tmp_path}")
        monkeypatch.setenv("LDFLAGS", f"-L{lib}")
        assert libaio() is None
        (lib / "libaio.so").write_text("no library")
        assert "libaio's library is not found" in libaio()
        (tmp_path / "libaio.h").write_text("#include <libaio.h.that.is.not.there>\n")
        assert "libaio's headers are not found" in libaio()


def test_libaio_cannot_be_looked_for_without_a_compiler(bare):
    assert "no C++ compiler is found" in libaio()


@LINUX
def test_a_lock_of_a_build_that_was_killed_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert list(stale_locks()) == []
    for name in ("cpu_adam", "py311_cpu/async_io", "of_somebody_else"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "lock").touch()
    with (tmp_path / "cpu_adam" / "lock").open():
        (told,) = stale_locks()
    lock = tmp_path / "py311_cpu" / "async_io" / "lock"
    assert told.startswith("a build of DeepSpeed's async_io was ended before it was done")
    assert told.endswith(f": rm {lock}")


@LINUX
def test_everything_is_told_at_once(bare):
    (bare / "extensions" / "deepspeed_shm_comm").mkdir(parents=True)
    (bare / "extensions" / "deepspeed_shm_comm" / "lock").touch()
    told = refusals(on_disk(bare / "none"), accelerator="cpu")
    assert len(told) == 5
    assert all("\n" not in each for each in told)
    assert "was ended before it was done" in told[-1]
    # Of several machines another may be building in a folder that they share.
    assert told[:-1] == refusals(on_disk(bare / "none"), accelerator="cpu", num_nodes=2)


def test_a_machine_that_has_everything_refuses_nothing(tmp_path, monkeypatch):
    if checks.cxx_compiler() or checks.ninja():
        pytest.skip("needs a C++ compiler and ninja")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", os.fspath(tmp_path))
    assert refusals(config(stage=3, offload_parameters=Offload()), accelerator="cpu") == []
