"""What discovery found, as frozen records."""

from __future__ import annotations

import difflib
import importlib
import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Generic, Literal, TypeVar

import importlib_metadata

from torchrelay.plugin.specs import Spec

Stage = Literal["metadata", "contract", "import", "register", "hook", "spec"]
"""How far a plugin came before it failed."""

STAGES: Mapping[Stage, str] = MappingProxyType(
    {
        "metadata": "its metadata cannot be read",
        "contract": "it does not fit this torchrelay",
        "import": "its plugin module cannot be imported",
        "register": "its hooks are not those of torchrelay",
        "hook": "one of its hooks raises",
        "spec": "one of its hooks returns what it must not",
    }
)
"""What each stage's failure means, for messages."""

SpecT = TypeVar("SpecT", bound=Spec, covariant=True)

_MACHINERY = (
    "<",
    str(Path(__file__).parents[1]),
    str(Path(importlib.__file__).parent),
    str(Path(importlib_metadata.__file__).parent),
)


@dataclass(frozen=True)
class Owner:
    """The distribution that brings something, as its metadata spells it."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Offer(Generic[SpecT]):
    """A spec and the distribution that brings it."""

    spec: SpecT
    owner: Owner


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin that was loaded.

    Attributes:
        name: name of its entry point.
        distribution: name of its distribution, as the metadata spells it.
        version: version of its distribution.
        module: its plugin module.
        contract: version of the contract that it was written for.
        import_seconds: what importing the module took.
    """

    name: str
    distribution: str
    version: str
    module: str
    contract: int
    import_seconds: float

    @property
    def key(self) -> str:
        """What tells it apart from every other plugin."""
        return f"{normalized(self.distribution)}:{self.name}"

    @property
    def owner(self) -> Owner:
        """The distribution."""
        return Owner(self.distribution, self.version)


@dataclass(frozen=True, kw_only=True)
class PluginFailure:
    """A plugin that was not loaded, or of which a hook was not heard.

    Attributes:
        name: name of its entry point; of its distribution where that could not be read.
        distribution: name of its distribution.
        version: version of its distribution; "" where that could not be read.
        stage: how far it came.
        cause: one line.
    """

    name: str
    distribution: str
    version: str
    stage: Stage
    cause: str

    @property
    def owner(self) -> Owner:
        """The distribution."""
        return Owner(self.distribution, self.version)

    def __str__(self) -> str:
        return f"{f'{self.owner}'.strip()}: {STAGES[self.stage]}: {self.cause}"


@dataclass(frozen=True, kw_only=True)
class DisabledPlugin:
    """A plugin that the environment variable TORCHRELAY_DISABLE_PLUGINS switches off."""

    name: str
    distribution: str
    version: str

    @property
    def owner(self) -> Owner:
        """The distribution."""
        return Owner(self.distribution, self.version)


def normalized(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'x'?"`, or "" if nothing known resembles `name`."""
    close = closest(name, known)
    return f", did you mean {' or '.join(map(repr, close))}?" if close else ""


def closest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that resemble `name`, two at most, the most similar first."""
    names = {_plain(known_name): known_name for known_name in known}
    return [names[match] for match in difflib.get_close_matches(_plain(name), names, n=2)]


def cause_of(error: BaseException) -> str:
    """`Type: message (file:line)`, in one line; file:line is where the plugin's own code was."""
    message = " ".join(str(error).split())
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [f for f in frames if not f.filename.startswith(_MACHINERY)]
    return f"{text} ({foreign[-1].filename}:{foreign[-1].lineno})" if foreign else text


def _plain(name: str) -> str:
    """A name without what makes names alike, or unlike, that a user would not think of."""
    return name.lower().replace("-", "_").removeprefix("torchrelay_")
