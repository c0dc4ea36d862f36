"""Builds Horovod for the torch that is installed, keeps the wheel, and installs it.

pip alone builds it without torch, or not at all: its build needs torch, so no isolation; tools older than today's;
C++17, which torch's headers ask for, where its own CMake files ask for C++14; and gloo has to be asked for.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from torchrelay.errors import TorchrelayError, UnavailableError
from torchrelay.plugin.checks import cxx_compiler, find_cxx_compiler

RELEASE = "horovod==0.28.1"

TOOLS = (
    "setuptools==80.10.2",
    "wheel==0.45.1",
    "cmake==3.31.10",
    "packaging",
    "cloudpickle",
    "psutil",
    "pyyaml",
    "cffi",
)
"""What the build uses, put into a folder of its own: it wants setuptools below 81 and CMake below 4."""

OPTIONS: Mapping[str, str] = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
}

STANDARD = "-std=c++17"

WHEELS = "TORCHRELAY_HOROVOD_WHEELS"
"""Environment variable that names the folder in which wheels are kept."""


def build(folder: Path, jobs: int) -> None:
    """Build the wheel unless there is one for this Python and this torch, and install it.

    Args:
        folder: where wheels are kept, in a folder for each torch.
        jobs: compilers at a time.

    Raises:
        UnavailableError: torch, pip or a compiler is missing.
        BuildError: pip failed; it has said why.
    """
    kept = folder / f"torch-{_torch()}"
    _check_tools()
    own = {name: value for name, value in os.environ.items() if name.startswith("HOROVOD_")}
    wheel = None if own else find_wheel(kept)
    if wheel is None:
        kept.mkdir(parents=True, exist_ok=True)
        _say(f"building {RELEASE} for torch {_torch()}, which takes some minutes")
        with tempfile.TemporaryDirectory(prefix="torchrelay-horovod-") as work:
            _build(Path(work), kept, options(own), jobs)
        wheel = find_wheel(kept)
    if wheel is None:
        raise BuildError(f"pip left no wheel in {kept} for this Python")
    _say(f"installing {wheel}")
    # Horovod's launcher imports distutils, which Python 3.12 leaves to setuptools.
    more = ["setuptools"] if sys.version_info >= (3, 12) else []
    _pip("install", "--force-reinstall", "--no-deps", str(wheel))
    _pip("install", str(wheel), *more)


class BuildError(TorchrelayError):
    """pip could not build or install Horovod."""


def find_wheel(folder: Path) -> Path | None:
    """The wheel for this Python in a folder; None if there is none."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    version = RELEASE.partition("==")[2]
    return next(iter(sorted(folder.glob(f"horovod-{version}-{tag}-{tag}-*.whl"))), None)


def options(own: Mapping[str, str]) -> dict[str, str]:
    """The build's environment variables: the user's, and what they do not contradict."""
    return {
        name: value
        for name, value in {**OPTIONS, **own}.items()
        if name.replace("_WITHOUT_", "_WITH_") not in own or name in own
    }


def default_folder() -> Path:
    """Where wheels are kept: TORCHRELAY_HOROVOD_WHEELS, else a folder of the user's cache."""
    given = os.environ.get(WHEELS)
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "torchrelay", "horovod")


def recipe() -> str:
    """The same by hand, as shell commands, a line each."""
    tools = " ".join(shlex.quote(tool) for tool in TOOLS)
    variables = " ".join(f"{name}={value}" for name, value in OPTIONS.items())
    return "\n".join(
        (
            f"pip install --target tools {tools}",
            f"printf '#!/bin/sh\\nexec g++ \"$@\" {STANDARD}\\n' > cxx17 && chmod +x cxx17",
            f"PYTHONPATH=tools PATH=$PWD/tools/bin:$PATH CXX=$PWD/cxx17 {variables} MAKEFLAGS=-j2 "
            f"pip wheel --no-build-isolation --no-deps {RELEASE}",
            "pip install horovod-*.whl",
        )
    )


def _build(work: Path, kept: Path, variables: Mapping[str, str], jobs: int) -> None:
    tools, compiler = work / "tools", work / "cxx17"
    # The tools' versions are the build's business, not that of the environment's constraints.
    free = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    _pip("install", "--target", str(tools), *TOOLS, env=free)
    # The last -std on the command line is the one that holds, so it goes behind CMake's.
    compiler.write_text(f'#!/bin/sh\nexec {find_cxx_compiler()} "$@" {STANDARD}\n')
    compiler.chmod(0o755)
    path = [str(tools), *filter(None, [os.environ.get("PYTHONPATH")])]
    where = {
        "CXX": str(compiler),
        "MAKEFLAGS": f"-j{jobs}",
        "PATH": os.pathsep.join([str(tools / "bin"), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(path),
    }
    without = ("--no-build-isolation", "--no-deps", "--no-cache-dir", "--no-binary", "horovod")
    _pip("wheel", *without, "--wheel-dir", str(kept), RELEASE, env={**free, **variables, **where})


def _check_tools() -> None:
    if find_spec("pip") is None:
        raise UnavailableError(
            f"pip is not in the environment of {sys.executable}, and builds Horovod there: python -m ensurepip"
        )
    problem = cxx_compiler()
    if problem is not None:
        raise UnavailableError(problem)


def _torch() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise UnavailableError(
            "Horovod is compiled against torch, which is not installed here: pip install torch"
        ) from None


def _pip(*arguments: str, env: Mapping[str, str] | None = None) -> None:
    command: Sequence[str] = (sys.executable, "-m", "pip", *arguments)
    done = subprocess.run(command, env=env, check=False)
    if done.returncode:
        raise BuildError(f"pip {arguments[0]} ended with status {done.returncode}; see above")


def _say(text: str) -> None:
    sys.stdout.write(f"torchrelay-horovod: {text}\n")
    sys.stdout.flush()
