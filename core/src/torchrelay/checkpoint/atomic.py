"""Files, and folders of files, that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torchrelay.checkpoint.checkpoint_io import Path as AnyPath


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when all of it is on the disk.

    The bytes go to a hidden temporary file beside `path`, which replaces `path` in one step when the block
    ends. If the block or the disk fails, the temporary file is removed and what was at `path` remains. A
    symbolic link stays a link, and the umask applies as to any new file.

    Raises:
        OSError: the folder is missing or cannot be written to, the disk is full, or `path` is a folder or device.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        # Root could put a file in the place of a device such as /dev/null.
        raise FileExistsError(errno.EEXIST, "there is something other than a file", str(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def replace_folder(new: AnyPath, path: AnyPath) -> None:
    """Give a folder that is complete its name, in the place of whatever file or folder has it.

    Whoever looks finds the new one or what was there before, whole; between the two, for an instant, nothing. A
    symbolic link stays a link.

    Args:
        new: a folder beside `path`, which nobody writes to any more.
        path: the name it is to have.

    Raises:
        OSError: it cannot be written; what was at `path` is still there.
    """
    source, target = Path(new), Path(os.path.realpath(path))
    for folder, _, names in os.walk(source):
        for name in names:
            _sync(Path(folder, name))
        _sync_folder(Path(folder))
    before = target.with_name(f".{secrets.token_hex(8)}.before")
    if target.exists():
        os.rename(target, before)
    try:
        os.rename(source, target)
    except BaseException:
        if before.exists():
            os.rename(before, target)
        raise
    _sync_folder(target.parent)
    if before.is_dir():
        shutil.rmtree(before)
    else:
        before.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    # The new name is an entry of the folder, which has to reach the disk as well. Windows has no way to ask.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
