"""Files by path or by URL: `/runs/last.ckpt`, `s3://bucket/runs/last.ckpt`, `memory://last.ckpt`.

Local paths, and URLs that begin with `file://`, are the standard library's. Any other URL is fsspec's, which is
imported only then.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from torchrelay.checkpoint import remote
from torchrelay.checkpoint.atomic import atomic_write
from torchrelay.checkpoint.checkpoint_io import Path as AnyPath


def is_remote(path: AnyPath) -> bool:
    """Whether a path is a URL of something other than the local file system."""
    text = os.fspath(path)
    return "://" in text and not text.startswith("file://")


def absolute(path: AnyPath) -> str:
    """The same place whatever the working directory; a URL stays as it is."""
    return os.fspath(path) if is_remote(path) else os.path.abspath(_local(path))


def join(folder: AnyPath, *names: str) -> str:
    """A path below a folder."""
    if is_remote(folder):
        return "/".join([os.fspath(folder).rstrip("/"), *names])
    return os.path.join(folder, *names)


def exists(path: AnyPath) -> bool:
    """Whether there is a file or a folder."""
    return remote.exists(os.fspath(path)) if is_remote(path) else _local(path).exists()


def is_folder(path: AnyPath) -> bool:
    """Whether there is a folder."""
    return remote.is_folder(os.fspath(path)) if is_remote(path) else _local(path).is_dir()


def list_folder(path: AnyPath) -> list[str]:
    """Names of what is in a folder, in order; none if it is not there."""
    if is_remote(path):
        return remote.list_folder(os.fspath(path))
    return sorted(os.listdir(_local(path))) if _local(path).is_dir() else []


def modified(path: AnyPath) -> float:
    """When a file was written, in seconds since the epoch; 0.0 where its file system does not say."""
    return remote.modified(os.fspath(path)) if is_remote(path) else _local(path).stat().st_mtime


def make_folder(path: AnyPath) -> None:
    """Make a folder and those above it, as far as they are missing.

    Raises:
        OSError: it cannot be made.
    """
    if is_remote(path):
        remote.make_folder(os.fspath(path))
    else:
        _local(path).mkdir(parents=True, exist_ok=True)


def obstacle(folder: AnyPath) -> str:
    """Why nothing can be written into a folder, which may be yet to be made; "" where nothing is known.

    Makes nothing. A URL is left alone, as only writing tells.
    """
    if is_remote(folder):
        return ""
    place = absolute(folder)
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        return f"{place} is a file"
    return "" if os.access(place, os.W_OK | os.X_OK) else f"{place} is not writable"


def remove(path: AnyPath) -> None:
    """Remove a file if it is there.

    Raises:
        OSError: it cannot be removed, or is a folder.
    """
    if is_remote(path):
        remote.remove(os.fspath(path))
    else:
        _local(path).unlink(missing_ok=True)


def link(path: AnyPath, target: AnyPath) -> None:
    """Let `path` be another name of the file `target`, in one step; a copy where there are no symbolic links.

    Raises:
        OSError: it cannot be made; what was at `path` is still there.
    """
    if is_remote(path):
        remote.copy(os.fspath(target), os.fspath(path))
        return
    place, file = Path(absolute(path)), Path(absolute(target))
    temporary = place.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        # Relative, so that the folder of a run can be moved.
        temporary.symlink_to(os.path.relpath(file, place.parent))
        os.replace(temporary, place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def open_to_write(path: AnyPath) -> Iterator[BinaryIO]:
    """Open a file that takes its name only when all of it is written; folders that are missing are made.

    Raises:
        OSError: it cannot be written; what was at `path` is still there.
    """
    if is_remote(path):
        with remote.write_whole(os.fspath(path)) as file:
            yield file
        return
    place = _local(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(place) as file:
        yield file


def open_to_read(path: AnyPath) -> AbstractContextManager[BinaryIO]:
    """Open a file for reading bytes anywhere in it.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    return remote.read(os.fspath(path)) if is_remote(path) else _local(path).open("rb")


def _local(path: AnyPath) -> Path:
    return Path(os.fspath(path).removeprefix("file://"))
