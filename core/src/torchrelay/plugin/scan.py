"""Which installed distributions say that they have a plugin. Imports none of them.

The distributions are walked one by one, each behind a guard: `importlib_metadata.entry_points()`
raises for everybody when one distribution of the environment is malformed. Most are dismissed
after one look at the text of their entry points, unparsed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from importlib_metadata import Distribution, DistributionFinder, EntryPoint, PackageNotFoundError

from torchrelay.errors import PluginError
from torchrelay.plugin.records import Owner, PluginFailure, cause_of, normalized

CORE = "torchrelay"
"""Core's own distribution."""

GROUP = "torchrelay"
"""Entry-point group of plugin modules."""

CONTRACT_GROUP = "torchrelay.contract"
"""Entry-point group that states each one's contract, as `v1 = "the.plugin.module"`."""

_HEADER = f"[{GROUP}]"


@dataclass(frozen=True)
class Candidate:
    """A plugin that a distribution declares.

    Attributes:
        entry: its entry point.
        distribution: name of its distribution, as the metadata spells it.
        version: version of its distribution.
        contracts: the versions of the contract that it states, as written.
    """

    entry: EntryPoint
    distribution: str
    version: str
    contracts: tuple[str, ...]


def scan(path: Sequence[str] | None = None) -> tuple[list[Candidate], list[PluginFailure]]:
    """Find every declared plugin.

    Args:
        path: directories to look for distributions in; `sys.path` when None.

    Returns:
        the plugins, ordered by distribution and name, and a failure for each distribution whose
        entry points cannot be read.
    """
    candidates: list[Candidate] = []
    failures: list[PluginFailure] = []
    names: dict[str, str] = {}
    for distribution in _distributions(failures, path=path):
        try:
            if _HEADER in (distribution.read_text("entry_points.txt") or ""):
                name = _identity(distribution).distribution
                names.setdefault(normalized(name), name)
        except Exception as error:
            failures.append(_unreadable(_label(distribution), error))
    for name in sorted(names):
        try:
            candidates.extend(_declared(_winner(names[name], path)))
        except Exception as error:
            failures.append(_unreadable(names[name], error))
    return candidates, failures


def core_version() -> str:
    """Version of the installed torchrelay."""
    return version_of(CORE)


def version_of(distribution: str) -> str:
    """Version of an installed distribution, from its metadata; "absent" if it is not installed."""
    try:
        return _identity(_winner(distribution, None)).version
    except PackageNotFoundError:
        return "absent"


def direct_url(distribution: str) -> dict[str, Any]:
    """Where an installed distribution came from, as PEP 610 records it; nothing if from an index, or not installed."""
    try:
        found = json.loads(_winner(distribution, None).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _distributions(failures: list[PluginFailure], **query: Any) -> Iterator[Distribution]:
    """Ask each finder on its own, so that one which raises does not silence the others."""
    given = {key: value for key, value in query.items() if value is not None}
    context = DistributionFinder.Context(**given)  # type: ignore[no-untyped-call]
    for finder in list(sys.meta_path):
        find = getattr(finder, "find_distributions", None)
        if find is None:
            continue
        try:
            yield from find(context)
        except Exception as error:
            failures.append(_unreadable(type(finder).__name__, error))


def _winner(name: str, path: Sequence[str] | None) -> Distribution:
    """The distribution of that name which counts; the others of that name are shadowed by it.

    One without metadata is what an interrupted uninstall leaves behind, and does not count.
    """
    for distribution in _distributions([], name=name, path=path):
        if _metadata(distribution):
            return distribution
    raise PackageNotFoundError(name)


def _metadata(distribution: Distribution) -> str:
    return distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""


def _identity(distribution: Distribution) -> Owner:
    """The name and version that the metadata states.

    Read by hand: `distribution.metadata` imports the `email` package, which takes as long as the
    whole scan.
    """
    headers = _metadata(distribution).partition("\n\n")[0]
    name, version = (
        re.search(rf"^{field}:[ \t]*(\S+)", headers, re.MULTILINE) for field in ("Name", "Version")
    )
    if name is None or version is None:
        raise PluginError("its metadata states no name and version")
    return Owner(name[1], version[1])


def _declared(distribution: Distribution) -> Iterator[Candidate]:
    owner = _identity(distribution)
    entries = list(distribution.entry_points)
    for entry in sorted((e for e in entries if e.group == GROUP), key=lambda e: e.name):
        yield Candidate(
            entry,
            owner.distribution,
            owner.version,
            tuple(
                other.name
                for other in entries
                if other.group == CONTRACT_GROUP and other.value == entry.value
            ),
        )


def _label(distribution: Distribution) -> str:
    return str(getattr(distribution, "_path", distribution))


def _unreadable(name: str, error: Exception) -> PluginFailure:
    return PluginFailure(
        name=name, distribution=name, version="", stage="metadata", cause=cause_of(error)
    )
