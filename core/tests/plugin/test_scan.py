from __future__ import annotations

import sys

import importlib_metadata
import pytest
from importlib_metadata import PathDistribution

from torchrelay.plugin.scan import core_version, scan, version_of

PLUGIN = "[torchrelay]\nacme = acme_plugin\n[torchrelay.contract]\nv1 = acme_plugin\n"


def found(site) -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    candidates, failures = scan(site.search)
    assert failures == []
    return [
        (c.distribution, c.version, c.entry.name, c.entry.value, c.contracts) for c in candidates
    ]


def test_a_declared_plugin_is_found_and_not_imported(site):
    site.distribution("Acme.Relay", "1.2", PLUGIN)
    assert found(site) == [("Acme.Relay", "1.2", "acme", "acme_plugin", ("v1",))]
    assert "acme_plugin" not in sys.modules


def test_other_distributions_are_passed_over(site):
    site.distribution("plain")
    site.distribution("scripts", entries="[console_scripts]\ntorchrelay = torchrelay.cli:main\n")
    site.distribution("contract-only", entries="[torchrelay.contract]\nv1 = x\n")
    assert found(site) == []


def test_plugins_come_in_the_order_of_their_names(site):
    for name in ("zeta", "Beta", "alpha"):
        site.distribution(name, entries="[torchrelay]\ntwo = b\none = a\n")
    assert [(name, entry) for name, _, entry, *_ in found(site)] == [
        (name, entry) for name in ("alpha", "Beta", "zeta") for entry in ("one", "two")
    ]


def test_a_contract_belongs_to_the_module_that_it_names(site):
    entries = "[torchrelay]\na = a\nb = b\n[torchrelay.contract]\nv1 = a\nv2 = a\n"
    site.distribution("acme", entries=entries)
    assert [(entry, contracts) for _, _, entry, _, contracts in found(site)] == [
        ("a", ("v1", "v2")),
        ("b", ()),
    ]


def test_a_shadowed_distribution_does_not_count(site, tmp_path):
    """The first on the path wins, however its name is spelled, even if it no longer has a plugin."""
    later = type(site)(tmp_path / "later")
    site.distribution("acme-relay", "2.0")
    later.distribution("Acme_Relay", "1.0", PLUGIN)
    later.distribution("other", "1.0", PLUGIN)
    candidates, failures = scan([*site.search, *later.search])
    assert failures == []
    assert [candidate.distribution for candidate in candidates] == ["other"]


def test_a_directory_that_is_searched_twice_counts_once(site):
    site.distribution("acme", entries=PLUGIN)
    candidates, _ = scan(site.search * 2)
    assert len(candidates) == 1


def test_what_an_interrupted_uninstall_left_behind_does_not_hide_the_distribution(site):
    site.distribution("acme", "2.0", PLUGIN)
    (site.path / "acme-1.0.dist-info").mkdir()
    assert [version for _, version, *_ in found(site)] == ["2.0"]


def test_malformed_distributions_stop_nothing(site):
    site.distribution("acme", entries=PLUGIN)
    (site.distribution("binary") / "entry_points.txt").write_bytes(b"[torchrelay]\n\xff\xfe")
    (site.distribution("nameless", entries=PLUGIN) / "METADATA").write_text("Version: 1\n")
    (site.distribution("bare", entries=PLUGIN) / "METADATA").unlink()
    site.distribution("nonsense", entries="no section\n[[[\n= =\n")
    (site.path / "empty.dist-info").mkdir()
    (site.path / "-.dist-info").mkdir()
    (site.path / "file-1.dist-info").write_text("not a folder")
    candidates, failures = scan(site.search)
    assert [candidate.distribution for candidate in candidates] == ["acme"]
    troubled = sorted(failure.distribution.rpartition("/")[2] for failure in failures)
    assert troubled == [
        "bare-1.0.dist-info",
        "binary-1.0.dist-info",
        "nameless-1.0.dist-info",
    ]
    assert {failure.stage for failure in failures} == {"metadata"}
    assert "UnicodeDecodeError" in next(f.cause for f in failures if "binary" in f.name)


def test_the_same_environment_breaks_a_plain_scan(site):
    """The guards are there for a reason."""
    (site.distribution("binary") / "entry_points.txt").write_bytes(b"[torchrelay]\n\xff\xfe")
    with pytest.raises(UnicodeDecodeError):
        importlib_metadata.entry_points(group="torchrelay", path=site.search)


class RaisingFinder:
    """What an editable install's import hook may do to everybody."""

    @classmethod
    def find_spec(cls, *_):
        return None

    @classmethod
    def find_distributions(cls, *_):
        raise RuntimeError("broken finder")


def test_a_finder_that_raises_silences_no_other(site, monkeypatch):
    site.distribution("acme", entries=PLUGIN)
    monkeypatch.setattr(sys, "meta_path", [RaisingFinder, *sys.meta_path])
    candidates, failures = scan(site.search)
    assert [candidate.distribution for candidate in candidates] == ["acme"]
    assert ["broken finder" in failure.cause for failure in failures] == [True]


def test_no_distribution_is_parsed_that_does_not_mention_the_group(site, monkeypatch):
    site.distribution("acme", entries=PLUGIN)
    for index in range(20):
        site.distribution(f"other{index}", entries="[console_scripts]\na = b:c\n")
    read = []
    original = PathDistribution.read_text

    def read_text(self, name):
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(PathDistribution, "read_text", read_text)
    scan(site.search)
    assert len([name for name in read if name == "METADATA"]) <= 5


def test_versions(site):
    site.distribution("acme", "3.1")
    assert version_of("acme") == "3.1"
    assert version_of("no-such-distribution") == "absent"
    assert core_version() == importlib_metadata.version("torchrelay")
