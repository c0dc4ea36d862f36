"""The commands that install distributions of the family, for messages: they fit where torchrelay itself came from.

A distribution that came from an index is asked for by its name, at which there need not be anything for one that came
from a checkout, a folder of wheels or a repository. Which of them it was, pip has recorded beside it (PEP 610). Nothing
is read before a message needs it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torchrelay.plugin.catalogue import BACKENDS, Backend
from torchrelay.plugin.records import normalized
from torchrelay.plugin.scan import CORE, direct_url

FOLDERS: Mapping[str, str] = {
    CORE: "core",
    **{each.distribution: f"plugins/strategy-{each.extra}" for each in BACKENDS},
}
"""Distribution -> its folder in the repository."""


def install_backend(backend: Backend) -> str:
    """The command that installs a backend that is not there."""
    found = _elsewhere(backend.distribution, "")
    return _command([], found or [f"{CORE}[{backend.extra}]"])


def install_a_backend(backend: Backend) -> str:
    """The command that installs any backend, with NAME for its extra.

    Args:
        backend: one of them, by which it is found where they are.
    """
    return "NAME".join(install_backend(backend).rsplit(backend.extra, 1))


def install_extra(extra: str) -> str:
    """The command that installs what one of core's extras needs."""
    return install(CORE, extra=extra)


def install(distribution: str, *options: str, extra: str = "") -> str:
    """The command that installs a distribution, from where it came before if it is installed.

    Args:
        distribution: its name.
        options: for pip.
        extra: one of its extras, to install that too.
    """
    bracket = f"[{extra}]" if extra else ""
    found = _elsewhere(distribution, bracket)
    return _command([*options], found or [f"{distribution}{bracket}"])


def reinstall(distribution: str) -> str:
    """The command that installs a distribution once more, over what is there of it."""
    return install(distribution, "--upgrade", "--force-reinstall", "--no-deps")


def install_newer_core(version: str) -> str:
    """What installs torchrelay of a version or a later one."""
    found = _elsewhere(CORE, "")
    if not found:
        return _command([], [f"{CORE}>={version}"])
    return f"bring its source to torchrelay {version} or later, and then {_command([], found)}"


def _command(options: list[str], arguments: list[str]) -> str:
    return " ".join(["pip install", *options, *map(_quoted, arguments)])


def _quoted(argument: str) -> str:
    """An argument in quotes that every shell knows, where it needs any."""
    if re.fullmatch(r"[\w@%+:,./\\~=-]+", argument):
        return argument
    return shlex.quote(argument) if re.search(r'["$`!\\]', argument) else f'"{argument}"'


def _elsewhere(distribution: str, bracket: str) -> list[str]:
    """What pip takes to get a distribution that is on no index; nothing where its name is all that is known."""
    name = normalized(distribution)
    # One of the family that is not installed lies beside core.
    for installed in dict.fromkeys((name, CORE) if name in FOLDERS else (name,)):
        origin = direct_url(installed)
        path = _local(str(origin.get("url", "")))
        beside = FOLDERS[name] if installed != name else ""
        found: list[str] = []
        if "dir_info" in origin and path:
            found = _in_checkout(
                path.parent / beside if beside else path, origin["dir_info"], bracket
            )
        elif "archive_info" in origin and path:
            found = _among_files(path.parent, name, bracket)
        elif "vcs_info" in origin:
            found = _in_repository(origin, beside, f"{name}{bracket} @ " if bracket else "")
        if found:
            return found
    return []


def _in_checkout(folder: Path, info: Mapping[str, Any], bracket: str) -> list[str]:
    if not (folder / "pyproject.toml").is_file():
        return []
    # Without -e, an editable installation would become a copy.
    return [*(["-e"] if info.get("editable") else []), f"{folder}{bracket}"]


def _among_files(folder: Path, name: str, bracket: str) -> list[str]:
    files = folder.glob(f"{name.replace('-', '_')}-[0-9]*")
    return ["--find-links", str(folder), f"{name}{bracket}"] if any(files) else []


def _in_repository(origin: Mapping[str, Any], beside: str, named: str) -> list[str]:
    info, folder = origin["vcs_info"], str(origin.get("subdirectory", ""))
    if beside and folder != FOLDERS[CORE]:
        return []
    revision = info.get("requested_revision") or info.get("commit_id")
    address = f"{named}{info['vcs']}+{origin['url']}" + (f"@{revision}" if revision else "")
    return [f"{address}#subdirectory={beside or folder}" if beside or folder else address]


def _local(url: str) -> Path | None:
    """The path that a URL names; None for one on another machine."""
    # Of the standard library, and slow to import: in a message alone.
    from urllib.request import url2pathname

    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None
