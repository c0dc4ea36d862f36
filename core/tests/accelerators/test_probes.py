from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay.accelerators import probes

UUIDS = ("GPU-aaaa-1", "GPU-aaab-2", "GPU-bbbb-3")

NVML = """
#include <string.h>
static int initialized = 0;
int nvmlInit_v2(void) { initialized++; return STATUS; }
int nvmlShutdown(void) { initialized--; return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = initialized == 1 ? 3 : 0; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (index > 2) return 2;
    *handle = (void *)(0x7f0000000000 + index);
    return 0;
}
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    static const char *names[] = {"GPU-aaaa-1", "GPU-aaab-2", "GPU-bbbb-3"};
    if (length < 80) return 7;
    strcpy(uuid, names[(unsigned long)handle - 0x7f0000000000]);
    return 0;
}
const char *nvmlErrorString(int status) { return status == 18 ? "version mismatch" : "other"; }
"""


def torch_of(site, **facts: str | None) -> None:
    """A package `torch` with the generated version file of a build, and nothing else."""
    lines = "".join(f"{name}: Optional[str] = {value!r}\n" for name, value in facts.items())
    site.write("torch/__init__.py", "raise AssertionError('imported')")
    site.write("torch/version.py", f"from typing import Optional\n__version__ = '2.9.0'\n{lines}")


@pytest.fixture
def bare(site, monkeypatch):
    """A site where torch is what the test writes, and no variable hides a device."""
    kept = [entry for entry in sys.path if not (Path(entry) / "torch").is_dir()]
    monkeypatch.setattr(sys, "path", kept)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    return site


@pytest.fixture
def nvml(tmp_path):
    """Compiles a library with NVML's interface and three GPUs, which fails with `status` if not 0."""
    compiler = shutil.which("cc")
    if compiler is None or platform.system() != "Linux":
        pytest.skip("needs Linux and a C compiler")

    def build(status: int = 0) -> str:
        source, library = tmp_path / "nvml.c", tmp_path / f"libnvml{status}.so"
        source.write_text(NVML)
        command = [compiler, "-shared", "-fPIC", f"-DSTATUS={status}", "-o", library, source]
        subprocess.run(command, check=True, timeout=60)
        return str(library)

    return build


def test_the_cores_that_this_process_may_use():
    found = probes.cpu()
    assert 1 <= found.count <= (os.cpu_count() or 1)
    assert found.reason == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_the_cores_respect_affinity():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from torchrelay.accelerators.probes import cpu; print(cpu().count)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("value", "devices"),
    [
        (None, (0, 1, 2)),
        ("", ()),
        ("1", (1,)),
        ("2,0", (2, 0)),
        (" 2 , 0 ", (2, 0)),
        ("0,7,1", (0,)),
        ("-1", ()),
        ("0,-1,1", (0,)),
        ("0,0", ()),
        ("NoDevFiles", ()),
        ("GPU-bbbb-3", (2,)),
        ("GPU-b", (2,)),
        ("GPU-bbbb,0", (2, 0)),
        ("GPU-aaa", ()),
        ("GPU-bbbb,2", ()),
        ("GPU-zzzz", ()),
        ("MIG-1234", (0,)),
        ("MIG-1234,MIG-5678", (0,)),
    ],
    ids=repr,
)
def test_visible_devices(value, devices):
    assert probes.visible_devices(value, UUIDS) == devices


def test_a_build_without_cuda_says_so_and_torch_is_not_imported(bare):
    torch_of(bare, cuda=None, hip=None)
    found = probes.cuda()
    assert found.count == 0
    assert "torch 2.9.0 is built without CUDA" in found.reason
    assert "torch" not in sys.modules


def test_no_torch_at_all(bare):
    assert "pip install torch" in probes.cuda().reason


def test_a_machine_without_a_driver_says_so(bare):
    torch_of(bare, cuda="12.8", hip=None)
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    found = probes.cuda()
    assert found.count == 0
    assert "no NVIDIA driver found" in found.reason


def test_nvml_is_read(nvml):
    library = nvml()
    assert probes.nvml_uuids(library) == UUIDS
    assert probes.nvml_uuids(library) == UUIDS  # shut down in between


def test_a_driver_that_does_not_answer_is_quoted(nvml):
    with pytest.raises(OSError, match=r"does not answer: version mismatch"):
        probes.nvml_uuids(nvml(18))


@pytest.mark.parametrize(
    ("variable", "count", "reason"),
    [(None, 3, ""), ("0,2", 2, ""), ("", 0, "CUDA_VISIBLE_DEVICES='' hides every NVIDIA GPU")],
    ids=repr,
)
def test_cuda_counts_what_is_visible(bare, nvml, monkeypatch, variable, count, reason):
    torch_of(bare, cuda="12.8", hip=None)
    library = nvml()
    monkeypatch.setattr(probes, "NVML", library)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    found = probes.cuda()
    assert found.count == count
    assert reason in found.reason


@pytest.mark.parametrize(("variable", "count"), [(None, 2), ("1", 1), ("", 0)], ids=repr)
def test_rocm_counts_what_the_kernel_lists(bare, tmp_path, monkeypatch, variable, count):
    torch_of(bare, cuda=None, hip="6.4")
    for index, simd in enumerate((0, 304, 304)):
        node = tmp_path / "nodes" / str(index)
        node.mkdir(parents=True)
        (node / "properties").write_text(f"cpu_cores_count 8\nsimd_count {simd}\nmem_banks 1\n")
    monkeypatch.setattr(probes, "KFD_NODES", tmp_path / "nodes")
    if variable is not None:
        monkeypatch.setenv("HIP_VISIBLE_DEVICES", variable)
    assert probes.cuda().count == count


def test_mps_is_for_apple_silicon():
    found = probes.mps()
    apple = (platform.system(), platform.machine()) == ("Darwin", "arm64")
    assert found.count == (1 if apple else 0)
    assert bool(found.reason) != apple


def test_the_build_is_that_of_torch():
    torch = pytest.importorskip("torch")
    build = probes.torch_build()
    assert build is not None
    assert (build["__version__"], build["cuda"]) == (str(torch.__version__), torch.version.cuda)


@pytest.mark.cuda
def test_the_count_is_torchs():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    assert probes.cuda().count == torch.cuda.device_count()


@pytest.mark.timeout(60)
def test_no_probe_imports_torch():
    code = (
        "import sys; from torchrelay.accelerators import probes\n"
        "probes.cpu(), probes.cuda(), probes.mps(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
