"""What a module does with a vendor's objects, read off its source."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping


def uses(source: str, roots: Mapping[str, str]) -> Iterator[tuple[str, ast.Call | None]]:
    """Each use: the dotted name, and the call if it is one.

    Args:
        source: of the module.
        roots: name of a variable -> dotted name of what it stands for.
    """
    tree = ast.parse(source)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        base, *path = ast.unparse(node).split(".")
        if base in roots:
            yield ".".join([roots[base], *path]), calls.get(id(node))


def binds(signature: inspect.Signature, call: ast.Call) -> None:
    """Raise TypeError where a call does not fit; what `**` hands on is taken to fit."""
    keywords = {each.arg: each for each in call.keywords if each.arg is not None}
    open_ended = len(keywords) < len(call.keywords)
    (signature.bind_partial if open_ended else signature.bind)(*call.args, **keywords)
