"""Files by URL, through fsspec."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from typing import Any, BinaryIO, cast

from torchrelay.errors import ConfigurationError, NotInstalledError


@contextmanager
def write_whole(url: str) -> Iterator[BinaryIO]:
    """Open an object that takes its name only when all of it is written.

    The bytes go to a temporary object beside it, which is then moved: renamed where the file system can, else copied
    by the other side, which object stores do whole or not at all.
    """
    system, target = _locate(url)
    folder, slash, _ = target.rpartition("/")
    temporary = f"{folder}{slash}.{secrets.token_hex(8)}.partial"
    system.makedirs(folder, exist_ok=True)
    try:
        with system.open(temporary, "wb") as file:
            yield file
        _move(system, temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):  # nothing was written yet
            system.rm_file(temporary)
        raise


def read(url: str) -> AbstractContextManager[BinaryIO]:
    """Open an object for reading."""
    system, target = _locate(url)
    return cast("AbstractContextManager[BinaryIO]", system.open(target, "rb"))


def exists(url: str) -> bool:
    """Whether there is an object or a folder."""
    system, target = _locate(url)
    return bool(system.exists(target))


def is_folder(url: str) -> bool:
    """Whether there is a folder."""
    system, target = _locate(url)
    return bool(system.isdir(target))


def list_folder(url: str) -> list[str]:
    """Names of what is in a folder, in order; none if it is not there."""
    system, target = _locate(url)
    if not system.isdir(target):
        return []
    return sorted(
        str(path).rstrip("/").rpartition("/")[2] for path in system.ls(target, detail=False)
    )


def modified(url: str) -> float:
    """When an object was written, in seconds since the epoch; 0.0 where its file system does not say."""
    system, target = _locate(url)
    try:
        return float(system.modified(target).timestamp())
    except NotImplementedError:
        return 0.0


def make_folder(url: str) -> None:
    """Make a folder and those above it, as far as they are missing."""
    system, target = _locate(url)
    system.makedirs(target, exist_ok=True)


def remove(url: str) -> None:
    """Remove an object if it is there."""
    system, target = _locate(url)
    if system.isdir(target):
        raise IsADirectoryError(f"{url} is a folder")
    with suppress(FileNotFoundError):
        system.rm_file(target)


def copy(url: str, to: str) -> None:
    """Copy an object to another name on the same file system."""
    system, source = _locate(url)
    _, target = _locate(to)
    system.cp_file(source, target)


def _locate(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there.

    Raises:
        NotInstalledError: fsspec, or what it needs for this kind of URL, is not installed.
        ConfigurationError: nobody knows this kind of URL.
    """
    try:
        system, path = import_module("fsspec").core.url_to_fs(url)
    except ImportError as error:
        hint = "pip install fsspec" if error.name == "fsspec" else str(error)
        raise NotInstalledError(
            f"{url} cannot be opened, because a package is missing: {hint}"
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{url} cannot be opened: {error}; use a path, or a URL that fsspec knows, such as s3://bucket/name"
        ) from error
    return system, str(path)


def _move(system: Any, source: str, target: str) -> None:
    # fsspec's own general way takes brackets and stars in names for patterns.
    if type(system).mv is import_module("fsspec").AbstractFileSystem.mv:
        system.cp_file(source, target)
        system.rm_file(source)
    else:
        system.mv(source, target)
