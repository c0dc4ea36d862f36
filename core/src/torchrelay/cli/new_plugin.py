"""`torchrelay new-plugin NAME`: a package that brings a strategy, complete and conforming, for a vendor to fill.

Imports no torch.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from torchrelay.errors import ConfigurationError
from torchrelay.plugin import CONTRACT_VERSION, catalogue
from torchrelay.plugin.records import Offer, normalized
from torchrelay.plugin.registry import Registry, get_registry
from torchrelay.plugin.scan import CORE, core_version, version_of

TEMPLATES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "ci.yml": ".github/workflows/ci.yml",
    "init.py": "src/$package/__init__.py",
    "plugin.py": "src/$package/plugin.py",
    "vendor.py": "src/$package/vendor.py",
    "strategy.py": "src/$package/strategy.py",
    "conformance.py": "tests/test_conformance.py",
}
"""Template -> the file that it becomes."""

WITH_ACCELERATOR = {
    "plugin_with_accelerator.py": "src/$package/plugin.py",
    "accelerator.py": "src/$package/accelerator.py",
    "probe.py": "src/$package/probe.py",
}
"""Those that come besides, or instead, with a device of its own."""

_ACCELERATOR_ROW = (
    "| `probe.py`, `accelerator.py` | find your devices, and say what torch calls them; "
    "the processor stands in |\n"
)


@dataclass(frozen=True)
class Names:
    """What a new package is called.

    Attributes:
        distribution: what `pip install` takes.
        package: what `import` takes.
        alias: what `Trainer(strategy=...)` takes; the accelerator's name too, where there is one.
    """

    distribution: str
    package: str
    alias: str

    @classmethod
    def of(cls, name: str) -> Names:
        """Derive them from a distribution's name: `acme-relay` has the alias `acme`.

        Raises:
            ConfigurationError: it is no name of a distribution, or of none that could be imported.
        """
        # https://packaging.python.org/en/latest/specifications/name-normalization/
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
            raise ConfigurationError(
                f"{name!r} is no name of a distribution; write letters and digits, with hyphens between, "
                "such as acme-relay"
            )
        distribution = normalized(name)
        package = distribution.replace("-", "_")
        alias = re.sub(r"^torchrelay_|_(torch)?relay$", "", package)
        bad = not re.fullmatch(r"[a-z][a-z0-9_]*", package) or not re.match("[a-z]", alias)
        if bad or {package, alias} & {*keyword.kwlist, *sys.stdlib_module_names}:
            raise ConfigurationError(
                f"{name!r} would be imported as {package} and used as strategy={alias!r}, which Python cannot do, "
                "or means something else by; choose a name such as acme-relay"
            )
        return cls(distribution, package, alias)

    @property
    def class_name(self) -> str:
        """The alias as the beginning of a class's name."""
        return "".join(word.capitalize() for word in self.alias.split("_"))


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand to the parser."""
    text = "write a package that brings a strategy, complete, for you to fill"
    parser = commands.add_parser(
        "new-plugin", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.add_argument("name", metavar="NAME", help="of the distribution, such as acme-relay")
    parser.add_argument(
        "--accelerator", action="store_true", help="with a device of its own, named like the alias"
    )
    parser.add_argument("--output", metavar="DIR", help="the new folder (default: NAME)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the package, and print what to do next."""
    names = Names.of(arguments.name)
    refuse_taken(names, get_registry(), accelerator=arguments.accelerator)
    folder = Path(arguments.output or names.distribution)
    write(render(names, accelerator=arguments.accelerator), folder)
    print(f"wrote {folder}: strategy {names.alias!r} in the package {names.package}")
    print(f'next: pip install -e "{folder}[testing]" && pytest {folder}')
    return 0


def refuse_taken(names: Names, registry: Registry, *, accelerator: bool) -> None:
    """Refuse names that somebody has already.

    Raises:
        ConfigurationError: the distribution, or the alias, is installed or of torchrelay's family.
    """
    family = {CORE, *(backend.distribution for backend in catalogue.BACKENDS)}
    installed = version_of(names.distribution) != "absent"
    if installed or names.distribution in family:
        where = "installed here" if installed else "torchrelay's own"
        raise ConfigurationError(
            f"the distribution {names.distribution} is {where}; choose another name"
        )
    owner = _owner(names.alias, registry, accelerator=accelerator)
    if owner:
        raise ConfigurationError(
            f"{names.distribution} would have the alias {names.alias!r}, which is {owner}; choose another name"
        )


def _owner(alias: str, registry: Registry, *, accelerator: bool) -> str:
    """Whose a name is already, in words; "" if nobody's."""
    offers: list[Offer[Any]] = [
        *registry.strategies,
        *(registry.accelerators if accelerator else ()),
    ]
    backend = catalogue.backend_of_alias(alias)
    if backend is None and accelerator:
        backend = catalogue.backend_of_accelerator(alias)
    for offer in offers:
        if offer.spec.name == alias:
            return f"of {offer.owner}"
    if backend is not None:
        return f"of {backend.distribution}"
    return "kept for what Lightning means by it" if alias in catalogue.RETIRED else ""


def render(names: Names, *, accelerator: bool = False) -> dict[str, str]:
    """The package's files: path -> text."""
    values = {
        "distribution": names.distribution,
        "package": names.package,
        "alias": names.alias,
        "class_name": names.class_name,
        "devices_variable": f"{names.package.upper()}_DEVICES",
        "accelerator": names.alias if accelerator else "cpu",
        "accelerator_row": _ACCELERATOR_ROW if accelerator else "",
        "contract": str(CONTRACT_VERSION),
        **_core_range(core_version()),
    }
    templates = {**TEMPLATES, **(WITH_ACCELERATOR if accelerator else {})}
    folder = files("torchrelay") / "templates" / "plugin"
    rendered = {f"src/{names.package}/py.typed": ""}
    for template, path in templates.items():
        text = (folder / f"{template}.tmpl").read_text(encoding="utf-8")
        rendered[_fill(path, values)] = _fill(text, values)
    return rendered


def write(contents: Mapping[str, str], folder: Path) -> None:
    """Write files below a new folder.

    Raises:
        ConfigurationError: the folder is there already, or cannot be made.
    """
    try:
        folder.mkdir(parents=True)
        for path, text in contents.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except FileExistsError:
        raise ConfigurationError(
            f"{folder} is there already; name another folder with --output, or remove it"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {folder}: {error.strerror}; choose another folder with --output"
        ) from error


def _core_range(version: str) -> dict[str, str]:
    """The versions of torchrelay that a package written now fits: from the present minor to the next major one."""
    major, minor, *_ = version.split(".")
    return {"core_version": f"{major}.{minor}", "core_limit": str(int(major) + 1)}


def _fill(text: str, values: Mapping[str, str]) -> str:
    return Template(text).substitute(values)
