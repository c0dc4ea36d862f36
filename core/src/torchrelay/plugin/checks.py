"""Checks of the machine that several backends need, for a plugin to name in its `DiagnosticSpec`.

Each returns None if all is well, else one line: what is wrong, and what mends it::

    DiagnosticSpec(
        name="compiler",
        target="torchrelay.plugin.checks:cxx_compiler",
        description="Kernels are compiled when they are first used.",
    )
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys


def find_cxx_compiler() -> str | None:
    """Path of the C++ compiler that torch's extensions would use: what CXX names, else the platform's."""
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    words = shlex.split(os.environ.get("CXX", "")) or [usual]
    return shutil.which(words[0])


def find_ninja() -> str | None:
    """Path of ninja, or the name of the Python package that brings it."""
    found = shutil.which("ninja")
    if found is None and importlib.util.find_spec("ninja") is not None:
        return "the Python package ninja"
    return found


def cxx_compiler() -> str | None:
    """Whether C++ can be compiled."""
    if find_cxx_compiler() is not None:
        return None
    if os.environ.get("CXX"):
        return f"CXX={os.environ['CXX']!r} names no compiler that is here; correct it, or unset CXX"
    return "no C++ compiler is found: apt-get install g++, or let CXX name one"


def ninja() -> str | None:
    """Whether ninja is there, which builds torch's extensions."""
    return None if find_ninja() else "ninja is not found: pip install ninja"
