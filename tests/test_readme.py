"""The README's code, run as a reader would: in an environment of its own, from wheels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Environment

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:python|toml)\n(.*?)```", README, re.DOTALL)
USE = """
from torchrelay import Trainer
print(type(Trainer(strategy="acme", accelerator="cpu").strategy).__name__)
"""


def block(beginning: str) -> str:
    (found,) = [text for text in BLOCKS if text.startswith(beginning)]
    return found


def test_training_script_runs(make_environment: Callable[[], Environment], tmp_path: Path) -> None:
    environment = make_environment()
    environment.pip_install("torchrelay[ddp]")
    script = tmp_path / "line.py"
    script.write_text(block("import torch"), encoding="utf-8")
    done = environment.run("python", script)
    assert done.returncode == 0, done.stderr
    assert "epoch 3/3" in done.stderr


def test_plugin_is_a_package_whose_alias_is_there(
    make_environment: Callable[[], Environment], tmp_path: Path
) -> None:
    project = tmp_path / "acme-relay"
    package = project / "src" / "acme_relay"
    package.mkdir(parents=True)
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    name = '[project]\nname = "acme-relay"\nversion = "1.0"\n'
    (project / "pyproject.toml").write_text(build + name + block("# pyproject.toml"))
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(block("# acme_relay/plugin.py"))
    (package / "strategy.py").write_text(block("# acme_relay/strategy.py"))

    environment = make_environment()
    environment.pip_install("torchrelay")
    environment.pip_install("--no-build-isolation", str(project))
    assert "acme_relay" not in environment.run("torchrelay", "list").stderr
    listed = environment.run("torchrelay", "list").stdout
    assert re.search(r"^acme .*AcmeStrategy.*acme-relay 1\.0.*yes$", listed, re.MULTILINE), listed
    script = tmp_path / "use.py"
    script.write_text(USE)
    used = environment.run("python", script)
    assert used.stdout.split() == ["AcmeStrategy"], used.stderr
