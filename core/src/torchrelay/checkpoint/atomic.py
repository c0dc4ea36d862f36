"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
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


def _sync_folder(folder: Path) -> None:
    # The new name is an entry of the folder, which has to reach the disk as well. Windows has no way to ask.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
