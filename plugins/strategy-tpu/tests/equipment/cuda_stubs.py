"""Write stand-ins for the CUDA libraries that torch's own are linked with, so that torch imports without them.

    python cuda_stubs.py

torch for CUDA is the only build that PyPI has for Linux, and torch-xla needs none of its CUDA. The stand-ins, in the
interpreter's environment, have the names and versions of the symbols that are looked for, and answer every call with an
error. Needs a C compiler, nm and readelf.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

NVIDIA = re.compile(r"lib(cu(?!da\.)|nccl|nvshmem|nvrtc|nvJit|nvTools)")
"""Libraries of CUDA, but for the driver's, which torch loads by itself."""

PREFIXES = {
    "cudnn": "libcudnn",
    "cublasLt": "libcublasLt",
    "cublas": "libcublas.",
    "cusparseLt": "libcusparseLt",
    "cusparse": "libcusparse.",
    "cusolver": "libcusolver",
    "cufft": "libcufft",
    "curand": "libcurand",
    "cupti": "libcupti",
    "nccl": "libnccl",
    "pnccl": "libnccl",
    "nvshmem": "libnvshmem",
    "cuFile": "libcufile",
    "nvrtc": "libnvrtc",
    "cuda": "libcudart",
    "__cuda": "libcudart",
}
"""Beginnings of symbols that have no version, and the library that has them."""

ERROR = 100  # cudaErrorNoDevice

BODIES = {
    "__cudaRegisterFatBinary": "static void *h[4]; void **%s(void *x) { return h; }",
    "cudaGetErrorString": 'const char *%s(int e) { return "CUDA is not installed"; }',
    "cudaGetErrorName": 'const char *%s(int e) { return "cudaErrorNoDevice"; }',
    "cudaGetLastError": "int %s(void) { return 0; }",
    "cudaPeekAtLastError": "int %s(void) { return 0; }",
    "cudaDriverGetVersion": "int %s(int *v) { *v = 0; return 0; }",
    "cudaRuntimeGetVersion": "int %s(int *v) { *v = 12080; return 0; }",
    "cudaGetDeviceCount": f"int %s(int *n) {{ *n = 0; return {ERROR}; }}",
}
"""What torch calls while it is imported."""

Symbols = Mapping[str, Iterable[str]]
"""Names, each with the versions under which it is looked for."""


def main() -> None:
    """Write what is missing beside torch's own libraries."""
    folder = Path(sysconfig.get_paths()["platlib"], "torch", "lib")
    ours = [each for each in folder.glob("*.so*") if not NVIDIA.match(each.name)]
    ours += folder.parent.glob("_C*.so")
    needed, looked_for = set(), defaultdict(set)
    defined = set()
    for library in ours:
        needed |= set(re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-dW", library)))
        for line in output("nm", "-D", library).splitlines():
            *_, kind, symbol = line.split()
            name, _, version = symbol.partition("@")
            if kind == "U":
                looked_for[name].add(version.lstrip("@"))
            else:
                defined.add(name)
    missing = {name for name in needed if NVIDIA.match(name)}
    shares: dict[str, dict[str, set[str]]] = {name: {} for name in sorted(missing)}
    for name, versions in looked_for.items():
        owner = None if name in defined else owner_of(name, versions, missing)
        if owner is not None:
            shares[owner][name] = versions - {""}
    for library, symbols in shares.items():
        write(folder / library, symbols)


def output(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def owner_of(name: str, versions: set[str], libraries: set[str]) -> str | None:
    """The library, among some, that has a symbol: by its version, or by how it begins."""
    for version in versions & libraries:
        return version
    if any(version.startswith(("GLIBC", "GCC", "CXXABI")) for version in versions):
        return None
    prefix = next((p for p in PREFIXES if name.startswith(p)), None)
    if prefix is None:
        return None
    return next((each for each in libraries if each.startswith(PREFIXES[prefix])), None)


def write(path: Path, symbols: Symbols) -> None:
    """Compile a library of these symbols."""
    default = f"long %s(void) {{ return {ERROR}; }}"
    source = "\n".join(BODIES.get(name, default) % name for name in sorted(symbols))
    by_version = defaultdict(list)
    for name, versions in symbols.items():
        for version in versions:
            by_version[version].append(name)
    with tempfile.TemporaryDirectory() as folder:
        code, script = Path(folder, "stub.c"), Path(folder, "stub.map")
        code.write_text(source + "\n")
        # The loader insists on the names of the versions that torch was linked with.
        script.write_text(
            "".join(f"{v} {{ global: {'; '.join(n)}; }};\n" for v, n in by_version.items())
        )
        options = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}"]
        if by_version:
            options.append(f"-Wl,--version-script={script}")
        subprocess.run(["gcc", *options, "-o", path, code], check=True)


if __name__ == "__main__":
    main()
