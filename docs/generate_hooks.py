"""Writes docs/hooks.md from the hookspecs: `python docs/generate_hooks.py > docs/hooks.md`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from torchrelay.plugin import hookspecs
from torchrelay.plugin.offers import KINDS
from torchrelay.plugin.specs import Capabilities, Capability, Hardware, Requirement

SECTIONS = ("Called", "Where", "Args", "Returns", "If it raises")
FOREWORD = (
    "<!-- Made of the docstrings in torchrelay/plugin/hookspecs.py and specs.py: "
    "python docs/generate_hooks.py > docs/hooks.md -->"
)


def hooks() -> dict[str, Callable[..., Any]]:
    """Name -> specification, in the order of the source."""
    return {n: f for n, f in vars(hookspecs).items() if n.startswith(f"{hookspecs.PROJECT}_")}


def sections(documented: object) -> dict[str, str]:
    """A docstring by its sections; what stands before them has the name "". Each is one line, but "Args"."""
    headings = "|".join(SECTIONS)
    parts = re.split(rf"^({headings}):", inspect.getdoc(documented) or "", flags=re.MULTILINE)
    texts = dict(zip(["", *parts[1::2]], parts[::2], strict=True))
    return {n: text if n == "Args" else " ".join(text.split()) for n, text in texts.items()}


def arguments(text: str) -> dict[str, str]:
    """Name -> description, of the lines below "Args:"."""
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    return {name: " ".join(description.split()) for name, description in found}


def page() -> Iterator[str]:
    """The page, by paragraphs."""
    yield "# Hooks"
    yield FOREWORD
    module = inspect.getdoc(hookspecs) or ""
    yield "\n\n".join(module.split("\n\n")[1:-1])
    for name, hook in hooks().items():
        yield from of_hook(name, hook)
    yield "## Specs"
    yield (
        "What the offering hooks return, from `torchrelay.plugin`: data, made by keyword, which checks itself\n"
        "when it is made (`SpecError`). A target is text, so that listing what is installed imports none."
    )
    for kind in (*KINDS.values(), Requirement, Hardware, Capabilities):
        yield from of_spec(kind)
    yield "What a strategy may declare that it has not got, with `unsupported(reason)` or `partial(reason)`:"
    yield table(
        ("`Capability.`", "a run needs it for"), ((f"`{c.name}`", c.value) for c in Capability)
    )


def of_hook(name: str, hook: Callable[..., Any]) -> Iterator[str]:
    """A hook's heading, sentence and table."""
    signature = str(inspect.signature(hook)).replace("'", "")
    told = sections(hook)
    yield f"## {name}\n\n```text\n{name}{signature}\n```"
    yield told[""]
    rows = {"called": told["Called"], "where": told["Where"]}
    given = arguments(told.get("Args", ""))
    rows |= {f"`{argument}`": given[argument] for argument in inspect.signature(hook).parameters}
    rows |= {"returns": told["Returns"], "if it raises": told["If it raises"]}
    if name in KINDS:
        kind = KINDS[name].__name__
        rows["returns"] = f"[{kind}](#{kind.lower()}): {rows['returns']}"
    yield table(("", ""), rows.items())


def of_spec(kind: type[Any]) -> Iterator[str]:
    """A spec's heading and fields."""
    told = sections(kind)
    yield f"### {kind.__name__}\n\n{told['']}"
    described = arguments(told.get("Args", ""))
    yield table(
        ("field", "default", ""),
        ((f"`{f.name}`", default(f), described.get(f.name, "")) for f in fields(kind)),
    )


def default(field: Field[Any]) -> str:
    """A field's default as code; nothing for one that has to be given."""
    if field.default is not MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not MISSING:
        made = field.default_factory()
        return f"`{made!r}`" if isinstance(made, dict) else f"`{type(made).__name__}()`"
    return ""


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.stdout.write("\n\n".join(page()) + "\n")
