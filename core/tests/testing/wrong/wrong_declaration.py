"""Plugins that declare well, but for one thing. Each is written into a folder as an installed distribution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torchrelay.testing import Subject

PLUGIN = """
{top}
from torchrelay.plugin import Capabilities, Requirement, StrategySpec, hookimpl

CAPABILITIES = Capabilities({declared})

@hookimpl
def torchrelay_strategies():
    yield StrategySpec(
        alias="{alias}",
        target="wrong_{alias}.strategy:{name}",
        description={description!r},
        capabilities={capabilities},
        presets={presets},
        requires={requires},
    )
{bottom}
"""
STRATEGY = """
{imports}
from torchrelay.strategies import SingleDeviceStrategy
from wrong_{alias}.plugin import CAPABILITIES

class Own(SingleDeviceStrategy):
    capabilities = CAPABILITIES

    def __init__(self, *, speed: int = 1, **components):
        super().__init__(**{components})
        self.speed = speed
"""
RIGHT = {
    "top": "",
    "declared": "",
    "name": "Own",
    "description": "Does everything right",
    "capabilities": "CAPABILITIES",
    "presets": '{"speed": 2}',
    "requires": "()",
    "bottom": "",
    "imports": "",
    "components": "components",
}
TWICE = """
@hookimpl
def torchrelay_diagnostics():
    return 7
"""
FILTER = '{k: v for k, v in components.items() if k != "torchrelay_kit_knows_no_such_option"}'


def plugin(alias: str, **differences: str) -> Callable[[Path], Subject]:
    """Writes a plugin that is right but for some differences, and gives the subject that it makes."""

    def make(folder: Path) -> Subject:
        text = {**RIGHT, "alias": alias, **differences}
        package = folder / f"wrong_{alias}"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "plugin.py").write_text(PLUGIN.format(**text))
        (package / "strategy.py").write_text(STRATEGY.format(**text))
        info = folder / f"wrong_{alias}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: wrong-{alias}\nVersion: 1.0\n"
        )
        entry = f"{alias} = wrong_{alias}.plugin\n"
        contract = f"v1 = wrong_{alias}.plugin\n"
        (info / "entry_points.txt").write_text(
            f"[torchrelay]\n{entry}[torchrelay.contract]\n{contract}"
        )
        return Subject(alias, accelerator="cpu", python_path=(str(folder),))

    return make


right = plugin("right")

MUTATIONS = {
    "entry_point_found": plugin("unheard", bottom=TWICE),
    "imports_neither_torch_nor_sdk": plugin("heavy", top="import torch"),
    "stays_in_the_import_budget": plugin("slow", top="import time; time.sleep(0.5)"),
    "aliases_resolve": plugin("elsewhere", name="Other"),
    "presets_reach_the_constructor": plugin("misspelled", presets='{"sped": 2}'),
    "refuses_unknown_options": plugin("swallows", components=FILTER),
    "description_is_present": plugin("silent", description="todo"),
    "declares_what_the_class_carries": plugin(
        "twofold", capabilities='Capabilities(precisions=("32-true",))'
    ),
    "capabilities_are_known": plugin("strange", declared='precisions=("fp7",)'),
    "missing_sdk_is_reported": plugin("undeclared", imports="import wrong_sdk_nowhere"),
}
