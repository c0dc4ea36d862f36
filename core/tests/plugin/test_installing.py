"""Where torchrelay came from is what pip records beside it: here, beside one that is found before the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay.plugin import installing
from torchrelay.plugin.catalogue import BACKENDS

DDP = next(each for each in BACKENDS if each.extra == "ddp")


@pytest.fixture
def came_from(site, monkeypatch):
    """Installs a distribution, with its direct_url.json."""
    others = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(sys, "path", [str(site.path), *others])

    def install(origin, name="torchrelay"):
        info = site.distribution(name)
        if origin is not None:
            text = origin if isinstance(origin, str) else json.dumps(origin)
            (info / "direct_url.json").write_text(text)

    return install


def folder(path: Path, **info: bool) -> dict:
    return {"url": path.as_uri(), "dir_info": info}


@pytest.fixture(params=["source", "my source", "d'Or $1"])
def checkout(tmp_path, request):
    root = tmp_path / request.param
    for name in ("core", "plugins/strategy-ddp"):
        (root / name).mkdir(parents=True)
        (root / name / "pyproject.toml").touch()
    return root


def words(command: str) -> list[str]:
    """What a shell makes of a command."""
    lines = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    )
    return lines.stdout.splitlines()


@pytest.mark.parametrize(
    "origin",
    [
        None,
        {},
        "{",
        "[]",
        {"url": "https://example.com/torchrelay-0.1.0-py3-none-any.whl", "archive_info": {}},
    ],
)
def test_from_an_index_or_where_nothing_is_known_names_are_enough(came_from, origin):
    came_from(origin)
    assert installing.install_backend(DDP) == 'pip install "torchrelay[ddp]"'
    assert installing.install_a_backend(DDP) == 'pip install "torchrelay[NAME]"'
    assert installing.install_extra("rich") == 'pip install "torchrelay[rich]"'
    assert (
        installing.install("torchrelay-ddp", "--upgrade") == "pip install --upgrade torchrelay-ddp"
    )
    assert installing.install_newer_core("9.1") == 'pip install "torchrelay>=9.1"'


@pytest.mark.parametrize("editable", [False, True])
def test_from_a_checkout_its_folders_are_named(came_from, checkout, editable):
    came_from(folder(checkout / "core", **({"editable": True} if editable else {})))
    pip, ddp = ["pip", "install"], f"{checkout}/plugins/strategy-ddp"
    how = ["-e"] if editable else []
    assert words(installing.install_backend(DDP)) == [*pip, *how, ddp]
    assert words(installing.install_extra("rich")) == [*pip, *how, f"{checkout}/core[rich]"]
    assert words(installing.install("torchrelay", "--upgrade")) == [
        *(*pip, "--upgrade", *how, f"{checkout}/core")
    ]
    some = words(installing.install_a_backend(DDP))
    assert some == [*pip, *how, f"{checkout}/plugins/strategy-NAME"]
    assert words(installing.reinstall("torchrelay_ddp"))[-1] == ddp
    assert installing.install_newer_core("9.1").startswith("bring its source to torchrelay 9.1 or")


def test_plain_paths_stay_plain(came_from, tmp_path):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "pyproject.toml").touch()
    came_from(folder(tmp_path / "core"))
    assert installing.install("torchrelay") == f"pip install {tmp_path}/core"
    assert installing.install_extra("rich") == f'pip install "{tmp_path}/core[rich]"'


def test_what_is_not_in_the_checkout_or_not_of_it_goes_by_its_name(came_from, checkout):
    came_from(folder(checkout / "core"))
    fairscale = next(each for each in BACKENDS if each.extra == "fairscale")
    assert installing.install_backend(fairscale) == 'pip install "torchrelay[fairscale]"'
    assert installing.install("acme-relay") == "pip install acme-relay"


def test_a_checkout_that_is_gone_is_not_named(came_from, tmp_path):
    came_from(folder(tmp_path / "gone" / "core"))
    assert installing.install_backend(DDP) == 'pip install "torchrelay[ddp]"'
    assert installing.install_extra("rich") == 'pip install "torchrelay[rich]"'


def test_a_plugin_of_somebody_else_has_a_folder_of_its_own(came_from, tmp_path):
    (tmp_path / "pyproject.toml").touch()
    came_from(folder(tmp_path), name="acme-relay")
    assert installing.reinstall("acme-relay") == (
        f"pip install --upgrade --force-reinstall --no-deps {tmp_path}"
    )


def test_from_a_wheel_the_others_are_sought_beside_it(came_from, tmp_path):
    wheel = tmp_path / "torchrelay-0.1.0-py3-none-any.whl"
    wheel.touch()
    came_from({"url": wheel.as_uri(), "archive_info": {}})
    assert installing.install_extra("rich") == (
        f'pip install --find-links {tmp_path} "torchrelay[rich]"'
    )
    assert installing.install_backend(DDP) == 'pip install "torchrelay[ddp]"'
    (tmp_path / "torchrelay_ddp-0.1.0-py3-none-any.whl").touch()
    assert installing.install_backend(DDP) == f"pip install --find-links {tmp_path} torchrelay-ddp"


def test_from_a_repository_the_others_come_from_there(came_from):
    came_from(
        {
            "url": "https://example.com/torchrelay.git",
            "vcs_info": {"vcs": "git", "commit_id": "1f2e", "requested_revision": "main"},
            "subdirectory": "core",
        }
    )
    repository = "git+https://example.com/torchrelay.git@main#subdirectory="
    assert words(installing.install_backend(DDP))[2:] == [f"{repository}plugins/strategy-ddp"]
    assert words(installing.install_a_backend(DDP))[2:] == [f"{repository}plugins/strategy-NAME"]
    assert words(installing.install_extra("rich"))[2:] == [f"torchrelay[rich] @ {repository}core"]


def test_nothing_is_read_before_a_message_needs_it():
    code = """
import sys
from torchrelay.plugin import scan
read = scan.Distribution.read_text
files = []
import importlib_metadata
path = importlib_metadata.PathDistribution
plain = path.read_text
path.read_text = lambda self, name: files.append(name) or plain(self, name)
from torchrelay.plugin.registry import get_registry
get_registry().strategies
print("direct_url.json" in files, "METADATA" in files, "urllib.request" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr
