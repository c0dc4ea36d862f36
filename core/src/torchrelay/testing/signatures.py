"""Holds the recorded signatures of an SDK that cannot be had against every use in `vendor.py`, and against a simulator.

A record is a JSON file. Its `sources` say where each signature was read: `repository`, `path`, and `commit`, or else a
`note`. Its `entries` have a dotted `name`, `parameters` with their defaults, and a `source`.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a record by their names.

    Raises:
        AssertionError: an entry has no source that the record describes, or two have one name.
    """
    record = json.loads(path.read_text())
    for entry in record["entries"]:
        source = record["sources"][entry["source"]]
        assert source["repository"], entry
        assert source["path"], entry
        assert source["commit"] or source["note"], entry
    names = [entry["name"] for entry in record["entries"]]
    assert len(names) == len(set(names))
    return {entry["name"]: entry for entry in record["entries"]}


def signature(entry: Mapping[str, Any]) -> inspect.Signature:
    """The signature that an entry records."""
    kinds = {"*": inspect.Parameter.VAR_POSITIONAL, "**": inspect.Parameter.VAR_KEYWORD}
    parameters = []
    for each in entry["parameters"]:
        name = each["name"].lstrip("*")
        stars = "*" * (len(each["name"]) - len(name))
        kind = kinds.get(stars, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        default = each.get("default", inspect.Parameter.empty)
        parameters.append(inspect.Parameter(name, kind, default=default))
    return inspect.Signature(parameters)


def uses(source: str, roots: Mapping[str, str]) -> Iterator[tuple[str, ast.Call | None]]:
    """What a module does with a vendor's objects: dotted name, and the call if it is one.

    Args:
        source: of the module.
        roots: name of a variable -> dotted name of what it stands for.
    """
    tree = ast.parse(source)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Attribute, ast.Name)) or id(node) in inner:
            continue
        path: list[str] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            path.insert(0, base.attr)
            base = base.value
        if not isinstance(base, ast.Name) or base.id not in roots:
            continue
        call = calls.get(id(node))
        if path or call is not None:
            yield ".".join([roots[base.id], *(path or ["__call__"])]), call


def binds(entry: Mapping[str, Any], call: ast.Call) -> None:
    """Raise TypeError where a call does not fit the recorded signature; `*args` and `**kwargs` are taken to fit."""
    positional = [each for each in call.args if not isinstance(each, ast.Starred)]
    keywords = {each.arg: each for each in call.keywords if each.arg is not None}
    open_ended = len(positional) < len(call.args) or len(keywords) < len(call.keywords)
    bind = signature(entry).bind_partial if open_ended else signature(entry).bind
    bind(*positional, **keywords)


def members(kind: type, stop: type) -> Iterator[str]:
    """Public methods and properties that a class and its bases below `stop` define."""
    for base in kind.__mro__[: kind.__mro__.index(stop)]:
        for name, value in vars(base).items():
            if name == "__call__" or (not name.startswith("_") and callable(value)):
                yield name
