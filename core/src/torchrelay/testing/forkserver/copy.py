"""How a copy of the server becomes a program: what an interpreter does between its start and its end."""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import io
import multiprocessing.process
import os
import runpy
import sys
import tempfile
from collections.abc import Sequence
from types import ModuleType
from typing import TextIO

from torchrelay.environments.program import Program
from torchrelay.testing.forkserver.request import Request


def become(request: Request, streams: Sequence[int], path: Sequence[str]) -> None:
    """Take over a program's standard streams, environment, working directory and search path."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    for stream in streams:
        os.close(stream)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.directory)
    # Both remember what they found when they were first used or imported.
    tempfile.tempdir = None
    multiprocessing.process.ORIGINAL_DIR = request.directory  # type: ignore[attr-defined]
    if "-u" in request.program.options:
        sys.stdout = _unbuffered(1, sys.stdout)
    sys.orig_argv = list(request.argv)
    added = request.environment.get("PYTHONPATH", "")
    sys.path[:] = ["", *added.split(os.pathsep)] if added else [""]
    sys.path += path
    importlib.invalidate_caches()
    _draw_anew()


def _draw_anew() -> None:
    """Seed the libraries' generators from the system, as importing them does; `random` sees to itself."""
    for name in ("torch", "numpy"):
        library = sys.modules.get(name)
        if library is not None:
            generator = library.default_generator if name == "torch" else library.random
            generator.seed()


def _unbuffered(descriptor: int, like: TextIO) -> TextIO:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(raw, like.encoding, like.errors, write_through=True)


def run(program: Program) -> None:
    """Run a program as `__main__`. What it ends by ends this process, as it would end an interpreter."""
    sys.modules["__main__"] = main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    try:
        _execute(program, main)
    except SystemExit:
        raise
    except KeyboardInterrupt as error:
        _show(error)
        # The interpreter ends by the signal, after it has shown the exception by the hook.
        sys.excepthook = lambda *_: None
        raise
    except BaseException as error:  # noqa: BLE001 - shown as the interpreter shows it
        _show(error)
    else:
        return
    sys.exit(1)


def _execute(program: Program, main: ModuleType) -> None:
    kind = program.target[0]
    sys.argv = [kind, *program.arguments]
    if kind == "-m":
        sys.path[0] = os.getcwd()
        runpy._run_module_as_main(program.target[1])  # type: ignore[attr-defined]
    elif kind == "-c":
        exec(compile(program.target[1], "<string>", "exec"), main.__dict__)
    else:
        _execute_file(kind, main)


def _execute_file(name: str, main: ModuleType) -> None:
    path = os.path.abspath(name)
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        text = f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}"
        sys.stderr.write(f"{sys.orig_argv[0]}: {text}\n")
        sys.exit(2)
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    main.__dict__["__file__"] = path
    main.__dict__["__cached__"] = None
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    exec(compile(source, path, "exec"), main.__dict__)


def _show(error: BaseException) -> None:
    """Show an exception by `sys.excepthook`, without the lines of this package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    sys.excepthook(type(error), error.with_traceback(trace), trace)
