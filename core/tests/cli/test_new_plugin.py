from __future__ import annotations

import ast
import sys

import pytest

from torchrelay.cli import main
from torchrelay.cli.new_plugin import Names, render
from torchrelay.plugin.discovery import discover

if sys.version_info >= (3, 11):
    import tomllib

FILES = {
    "pyproject.toml",
    "README.md",
    ".gitignore",
    ".github/workflows/ci.yml",
    "src/acme_relay/__init__.py",
    "src/acme_relay/py.typed",
    "src/acme_relay/plugin.py",
    "src/acme_relay/vendor.py",
    "src/acme_relay/strategy.py",
    "tests/test_conformance.py",
}
DEVICE_FILES = {"src/acme_relay/accelerator.py", "src/acme_relay/probe.py"}


def written(folder):
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("option", [[], ["--accelerator"]], ids=["plain", "accelerator"])
def test_a_complete_package_is_written(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "Acme.relay", *option]) == 0
    assert capsys.readouterr().out == (
        "wrote acme-relay: strategy 'acme' in the package acme_relay\n"
        'next: pip install -e "acme-relay[testing]" && pytest acme-relay\n'
    )
    found = written(tmp_path / "acme-relay")
    assert set(found) == FILES | (DEVICE_FILES if option else set())
    for path, text in found.items():
        assert "$" not in text.replace("${{ matrix.python }}", ""), path
        assert text.endswith("\n") or not text
        if path.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize("accelerator", [False, True])
def test_torchrelay_finds_the_plugin(accelerator, site):
    files = render(Names.of("acme-relay"), accelerator=accelerator)
    for path, text in files.items():
        if path.startswith("src/") and path.endswith(".py"):
            site.write(path.removeprefix("src/"), text)
    entries = (
        "[torchrelay]\nacme = acme_relay.plugin\n[torchrelay.contract]\nv1 = acme_relay.plugin\n"
    )
    site.distribution("acme-relay", entries=entries)
    before = set(sys.modules)
    found = discover(site.search)
    assert found.failures == ()
    assert {m for m in set(sys.modules) - before if m.startswith("acme")} == {
        "acme_relay",
        "acme_relay.plugin",
    }
    own = [offer.spec for offer in found.offers if offer.owner.distribution == "acme-relay"]
    assert [spec.name for spec in own] == ["acme"] * (2 if accelerator else 1)
    assert own[0].accelerators == (("acme",) if accelerator else ())
    assert own[0].target == "acme_relay.strategy:AcmeStrategy"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_the_project_declares_both_entry_points():
    project = tomllib.loads(render(Names.of("torchrelay-my-npu"))["pyproject.toml"])["project"]
    assert project["name"] == "torchrelay-my-npu"
    assert project["entry-points"]["torchrelay"] == {"my_npu": "torchrelay_my_npu.plugin"}
    assert project["entry-points"]["torchrelay.contract"] == {"v1": "torchrelay_my_npu.plugin"}
    assert any(need.startswith("torchrelay>=0.1,<1") for need in project["dependencies"])


@pytest.mark.parametrize(
    ("name", "package", "alias", "class_name"),
    [
        ("acme-relay", "acme_relay", "acme", "Acme"),
        ("Acme_NPU", "acme_npu", "acme_npu", "AcmeNpu"),
        ("torchrelay-x.y", "torchrelay_x_y", "x_y", "XY"),
        ("zeta-torchrelay", "zeta_torchrelay", "zeta", "Zeta"),
    ],
)
def test_names_are_derived(name, package, alias, class_name):
    names = Names.of(name)
    assert (names.package, names.alias, names.class_name) == (package, alias, class_name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme relay", "no name of a distribution"),
        ("acme-", "no name of a distribution"),
        ("../acme", "no name of a distribution"),
        ("", "no name of a distribution"),
        ("3d-relay", "3d_relay"),
        ("json", "json"),
        ("class-relay", "'class'"),
        ("torchrelay", "choose another name"),
        ("torchrelay-deepspeed", "torchrelay's own"),
        ("horovod", "of torchrelay-horovod"),
        ("ddp-relay", "of torchrelay-ddp"),
        ("fsdp-relay", "Lightning"),
        ("pluggy", "installed here"),
        ("single-device", "of torchrelay "),
    ],
)
def test_names_that_cannot_be_or_are_taken_are_refused(
    name, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "--", name]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_accelerators_name_is_taken_only_for_an_accelerator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "mps-relay", "--accelerator"]) == 2
    assert main(["new-plugin", "mps-relay"]) == 0


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "acme").mkdir()
    assert main(["new-plugin", "acme-relay", "--output", str(tmp_path / "acme")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert list((tmp_path / "acme").iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["new-plugin", "acme-relay", "--output", str(tmp_path / "file" / "acme")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "cannot write" in captured.err
