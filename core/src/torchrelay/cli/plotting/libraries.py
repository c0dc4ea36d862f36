"""The libraries that draw, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torchrelay.errors import NotInstalledError
from torchrelay.plugin.installing import install_extra


def load(name: str, instead: str = "") -> Any:
    """Import a module of a library of the extra `plot`.

    Args:
        name: the module.
        instead: what to do if the library shall not be installed.

    Raises:
        NotInstalledError: the library is absent.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        library = name.partition(".")[0]
        if error.name != library:
            raise
        raise NotInstalledError(
            f"torchrelay plot needs {library}, which is not installed: {install_extra('plot')}{instead}"
        ) from None
