"""Reads the Python sources in Bagua's wheel, importing nothing: what a name is, and how it is called."""

from __future__ import annotations

import ast
import inspect
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from bagua_wheel import SOURCES

TOP = "bagua.torch_api"


def root() -> Path:
    """Where the sources are.

    Fails, and does not skip, where they are not.
    """
    if not (SOURCES / "done").exists():
        pytest.fail(
            f"no sources of Bagua in {SOURCES}; this fetches them: "
            "python plugins/strategy-bagua/tests/equipment/bagua_wheel.py",
            pytrace=False,
        )
    return SOURCES


@cache
def tree(module: str) -> ast.Module | None:
    """The syntax of a module; None where there is no such module."""
    base = root().joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return ast.parse(path.read_text())
    return None


def is_package(module: str) -> bool:
    """Whether a module is a package."""
    return root().joinpath(*module.split("."), "__init__.py").exists()


def find(name: str) -> tuple[str, ast.AST]:
    """The module that defines what a dotted name stands for, and its definition there.

    Raises:
        LookupError: the wheel has no such name.
    """
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        syntax = tree(module)
        if syntax is not None:
            return _within(module, syntax, parts[end:])
    raise LookupError(name)


def _within(module: str, node: ast.AST, path: list[str]) -> tuple[str, ast.AST]:
    if not path:
        return module, node
    name, *rest = path
    for each in getattr(node, "body", ()):
        if isinstance(each, (ast.FunctionDef, ast.ClassDef)) and each.name == name:
            return _within(module, each, rest)
        if isinstance(each, (ast.Assign, ast.AnnAssign)) and name in _targets(each):
            return module, each
        if isinstance(each, ast.ImportFrom) and name in {a.asname or a.name for a in each.names}:
            return find(".".join([_origin(module, each), name, *rest]))
    if isinstance(node, ast.ClassDef):
        return _of_an_object(module, node, path)
    raise LookupError(f"{module} has no {'.'.join(path)}")


def _of_an_object(module: str, kind: ast.ClassDef, path: list[str]) -> tuple[str, ast.AST]:
    """What a constructor gives its object, or a base of its class has."""
    for each in ast.walk(kind):
        if isinstance(each, ast.Attribute) and (each.attr, type(each.ctx)) == (path[0], ast.Store):
            return module, each
    for base in kind.bases:
        with suppress(LookupError):
            return _within(*find(f"{module}.{ast.unparse(base)}"), path)
    raise LookupError(f"{kind.name} has no {'.'.join(path)}")


def _origin(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    base = module.split(".")
    base = base[: len(base) - node.level + is_package(module)]
    return ".".join([*base, *([node.module] if node.module else [])])


def _targets(node: Any) -> set[str]:
    return {
        each.id
        for each in getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(each, ast.Name)
    }


def signature(name: str) -> inspect.Signature:
    """How a function, a method or a class is called; `self` and `cls` are left out.

    Raises:
        LookupError: the wheel has no such name, or it cannot be called.
    """
    module, node = find(name)
    bound = isinstance(node, ast.ClassDef)
    if bound:
        _, node = _within(module, node, ["__init__"])
    if not isinstance(node, ast.FunctionDef):
        raise LookupError(f"{name} is no function")
    arguments = node.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    given = [_value(each) for each in arguments.defaults]
    defaults = [inspect.Parameter.empty] * (len(names) - len(given)) + given
    parameters = [
        inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for each, default in zip(names, defaults, strict=True)
        if each not in ("self", "cls")
    ]
    if arguments.vararg:
        parameters.append(inspect.Parameter(arguments.vararg.arg, inspect.Parameter.VAR_POSITIONAL))
    if arguments.kwarg:
        parameters.append(inspect.Parameter(arguments.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters)


def _value(node: ast.expr) -> Any:
    """A default; its text, where it is computed."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def text(module: str, name: str) -> str:
    """The source of a definition, normalized."""
    return ast.unparse(find(f"{module}.{name}")[1])


def registered() -> dict[str, str]:
    """Names under which algorithms are registered, and their classes."""
    found = {}
    for node in ast.walk(tree(f"{TOP}.algorithms")):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Registry.register"):
            name, kind = node.args[:2]
            found[ast.literal_eval(name)] = f"{TOP}.algorithms.{ast.unparse(kind)}"
    return found
