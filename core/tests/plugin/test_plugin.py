"""The plugin that the package's docstring shows, and its list of hooks."""

from __future__ import annotations

import inspect
import re
import textwrap

import pytest

import torchrelay.plugin
from torchrelay.plugin import hookspecs
from torchrelay.plugin.discovery import discover
from torchrelay.plugin.offers import KINDS
from torchrelay.plugin.registry import Registry
from torchrelay.plugin.targets import load_target


def files_of_the_docstring() -> dict[str, str]:
    blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", torchrelay.plugin.__doc__ or "")
    texts = [textwrap.dedent(block).strip() + "\n" for block in blocks]
    return {text.splitlines()[0].removeprefix("# "): text for text in texts}


def test_the_plugin_of_the_docstring_works(site):
    files = files_of_the_docstring()
    assert set(files) == {"pyproject.toml", "acme_relay/plugin.py", "acme_relay/strategy.py"}
    groups = re.findall(r"\[project\.entry-points\.(.+)\]\n(\w+) = (.+)", files["pyproject.toml"])
    entries = "\n".join(
        "[{}]\n{} = {}".format(*(part.strip('"') for part in found)) for found in groups
    )
    site.distribution("acme-relay", "1.0", entries)
    for name in ("acme_relay/plugin.py", "acme_relay/strategy.py"):
        site.write(name, files[name])
    offer = Registry(discover(site.search, {})).strategy("acme", "cpu")
    assert str(offer.owner) == "acme-relay 1.0"
    pytest.importorskip("torch")
    assert load_target(offer.spec.target).__name__ == "AcmeStrategy"


def hooks() -> dict[str, object]:
    return {n: f for n, f in vars(hookspecs).items() if n.startswith("torchrelay_")}


def test_every_hook_is_summed_up_in_one_line():
    for name, hook in hooks().items():
        summary = (inspect.getdoc(hook) or "").partition("\n\n")[0]
        assert summary.endswith("."), name
        assert "\n" not in summary


def test_every_hook_that_offers_something_is_asked():
    offering = {n for n, f in hooks().items() if not inspect.signature(f).parameters}
    assert offering == set(KINDS)


def test_all_is_everything_public():
    public = {name for name in vars(torchrelay.plugin) if not name.startswith("_")}
    submodules = {n for n in public if inspect.ismodule(getattr(torchrelay.plugin, n))}
    assert set(torchrelay.plugin.__all__) <= public
    assert public - submodules - set(torchrelay.plugin.__all__) == {"PROJECT", "annotations"}
