"""Fetches Bagua's wheel and keeps its Python sources, which tests read; run by tox before the tests.

    python plugins/strategy-bagua/tests/equipment/bagua_wheel.py

The wheel is for Python 3.10 and CUDA 11.7, and cannot be installed where the tests run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

WHEEL = "bagua-cuda117==0.9.3.dev6"
SHA256 = "88f148a7b289ab579c8c89ffe50147fbd2b6cbb77b0dc39ff92d80bed77bb96f"
SOURCES = Path(sys.prefix) / "bagua-0.9.3.dev6"
"""Where the sources are: in the environment that runs the tests."""

TAGS = (
    "--python-version",
    "3.10",
    "--implementation",
    "cp",
    "--abi",
    "cp310",
    "--platform",
    "manylinux2014_x86_64",
)


def fetch() -> None:
    """Fetch the sources, unless they are there."""
    if (SOURCES / "done").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        options = ("--no-deps", "--only-binary", ":all:", "--quiet", "--dest", folder)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, *TAGS, WHEEL], check=True
        )
        (wheel,) = Path(folder).glob("*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != SHA256:
            raise SystemExit(f"{wheel.name} has the SHA-256 {found}, and {SHA256} was examined")
        with ZipFile(wheel) as archive:
            archive.extractall(
                SOURCES,
                [n for n in archive.namelist() if n.startswith("bagua/") and n.endswith(".py")],
            )
    (SOURCES / "done").touch()


if __name__ == "__main__":
    fetch()
