"""Who may import whom: the design's rules, held by reading the imports of every shipped module."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parents[1]

# A layer imports from those before it; the kit and the entry script may use everything.
LAYERS = (
    "lazy",
    "errors",
    "plugin",
    "arguments",
    "tree",
    "checkpoint",
    "precision",
    "accelerators",
    "environments",
    "collectives",
    "launchers",
    "strategies",
    "combined_loader",
    "utilities",
    "seed",
    "data_hooks",
    "hparams",
    "module_facts",
    "manual",
    "module",
    "datamodule",
    "loggers",
    "profilers",
    "callbacks",
    "trainer",
    "testing",
    "cli",
    "__main__",
)
FOUNDATION = {"lazy", "errors", "plugin"}
TORCH_FREE = {*FOUNDATION, "environments", "cli", "__init__"}
STANDARD_LIBRARY = set(sys.stdlib_module_names)
FOUNDATION_NEEDS = {"pluggy", "importlib_metadata"}
CORE_NEEDS = {*FOUNDATION_NEEDS, "torch", "fsspec", "numpy", "rich", "pytest"}
STRATEGY_BASES = {"Strategy", "SingleDeviceStrategy", "ParallelStrategy", "ProcessGroupStrategy"}


@dataclass(frozen=True)
class Import:
    """One imported name, dotted, and when it is imported."""

    name: str
    line: int
    when: Literal["load", "call", "typing"]

    @property
    def head(self) -> str:
        return self.name.partition(".")[0]

    @property
    def layer(self) -> str | None:
        """The part of core it reaches into; None outside of core."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "torchrelay" and len(parts) > 1 else None

    @property
    def third_party(self) -> bool:
        return self.head not in STANDARD_LIBRARY and not self.head.startswith("torchrelay")


@dataclass(frozen=True)
class Module:
    """A shipped module: of core when `package` is `torchrelay`, else of a plugin."""

    place: str
    package: str
    parts: tuple[str, ...]
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def in_core(self) -> bool:
        return self.package == "torchrelay"

    @property
    def layer(self) -> str | None:
        return self.parts[0] if self.in_core else None


class ImportReader(ast.NodeVisitor):
    """Collects the imports of one module, those inside functions and `import_module("name")` included."""

    def __init__(self, dotted: tuple[str, ...]) -> None:
        self.dotted = dotted
        self.when: Literal["load", "call", "typing"] = "load"
        self.found: list[Import] = []

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(alias.name, node.lineno, self.when) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        origin = [*self.dotted[: len(self.dotted) - node.level]] if node.level else []
        base = ".".join([*origin, *([node.module] if node.module else [])])
        self.found += [
            Import(f"{base}.{alias.name}", node.lineno, self.when) for alias in node.names
        ]

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in {"import_module", "__import__"} and node.args:
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                self.found.append(Import(target.value, node.lineno, self.when))
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            self._visit_all(node.body, "typing")
            self._visit_all(node.orelse, self.when)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all(node.body, "typing" if self.when == "typing" else "call")

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  ast's spelling

    def _visit_all(self, nodes: list[ast.stmt], when: Literal["load", "call", "typing"]) -> None:
        outer, self.when = self.when, when
        for node in nodes:
            self.visit(node)
        self.when = outer


def shipped_modules(root: Path) -> Iterator[Module]:
    for source in (root / "core" / "src", *sorted(root.glob("plugins/*/src"))):
        for path in sorted(source.rglob("*.py")):
            package, *parts = path.relative_to(source).with_suffix("").parts
            tree = ast.parse(path.read_text(encoding="utf-8"))
            reader = ImportReader((package, *parts))
            reader.visit(tree)
            place = path.relative_to(root).as_posix()
            yield Module(place, package, tuple(parts), tree, tuple(reader.found))


Breach = tuple[int, str]
Rule = Callable[[Module], Iterator[Breach]]


def foundation_imports_only_the_standard_library_and_pluggy(module: Module) -> Iterator[Breach]:
    for each in module.imports:
        foreign = each.third_party and each.head not in FOUNDATION_NEEDS
        if module.layer in FOUNDATION and each.when != "typing" and foreign:
            yield each.line, f"{module.layer} imports {each.head}"


def core_imports_no_vendor(module: Module) -> Iterator[Breach]:
    for each in module.imports:
        if module.in_core and each.head.startswith("torchrelay_"):
            yield each.line, f"core imports the plugin {each.head}"
        elif module.in_core and each.third_party and each.head not in CORE_NEEDS:
            yield each.line, f"core imports {each.head}"


def core_imports_downward(module: Module) -> Iterator[Breach]:
    if not module.in_core or module.layer == "__init__":
        return
    if module.layer not in LAYERS:
        yield 1, f"{module.layer} is no layer of core: give it a place in LAYERS"
        return
    for each in module.imports:
        if each.layer is None or each.when == "typing" or each.layer == "__version__":
            continue
        if each.layer not in LAYERS:
            yield each.line, f"core imports {each.name} from its own facade"
        elif LAYERS.index(each.layer) > LAYERS.index(module.layer):
            yield each.line, f"{module.layer} reaches up to {each.layer}"


def listing_loads_no_torch(module: Module) -> Iterator[Breach]:
    for each in module.imports:
        if module.layer in TORCH_FREE and each.when == "load" and each.head == "torch":
            yield each.line, f"importing {module.layer} imports torch"


def a_declaration_loads_only_the_foundation(module: Module) -> Iterator[Breach]:
    """plugin.py is imported to list aliases, and with it the package's `__init__`."""
    if module.in_core or module.parts not in {("plugin",), ("__init__",)}:
        return
    for each in module.imports:
        own = each.name.startswith(f"{module.package}.plugin")
        light = each.head in STANDARD_LIBRARY or each.layer in FOUNDATION or own
        if each.when == "load" and not light:
            yield each.line, f"{module.parts[-1]} imports {each.name} when it is loaded"


def a_plugin_imports_no_other_plugin(module: Module) -> Iterator[Breach]:
    for each in module.imports:
        another = each.head.startswith("torchrelay_") and each.head != module.package
        if not module.in_core and another:
            yield each.line, f"{module.package} imports {each.head}"


def a_plugin_imports_no_private_of_core(module: Module) -> Iterator[Breach]:
    for each in module.imports:
        private = any(p.startswith("_") and not p.endswith("__") for p in each.name.split("."))
        if not module.in_core and each.head == "torchrelay" and private:
            yield each.line, f"{module.package} imports {each.name}"


def a_vendor_sdk_is_imported_by_vendor_when_called(module: Module) -> Iterator[Breach]:
    for each in module.imports:
        if module.in_core or not each.third_party or each.head in {"torch", "pytest"}:
            continue
        if module.parts != ("vendor",):
            yield each.line, f"{each.head} is imported outside vendor.py"
        elif each.when == "load":
            yield each.line, f"{each.head} is imported when vendor.py is, not when it is needed"


def pytest_stays_in_the_kit(module: Module) -> Iterator[Breach]:
    for each in module.imports:
        if each.head in {"pytest", "_pytest"} and module.layer != "testing":
            yield each.line, "pytest is imported outside torchrelay.testing"


def strategies_inherit_from_the_contract_alone(module: Module) -> Iterator[Breach]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Strategy"):
            for base in map(ast.unparse, node.bases):
                name = base.rpartition(".")[2]
                concrete = name.endswith("Strategy") and name not in STRATEGY_BASES
                if concrete and not _only_presets(node, module):
                    yield node.lineno, f"{node.name} inherits from {name}: compose instead"


def _only_presets(node: ast.ClassDef, module: Module) -> bool:
    """Whether a class gives arguments of its neighbour's constructor other defaults, and nothing else."""
    neighbours = {each.name for each in module.tree.body if isinstance(each, ast.ClassDef)}
    body = [part for part in node.body if not isinstance(part, ast.Expr)]
    constructor = len(body) == 1 and getattr(body[0], "name", "") == "__init__"
    return constructor and all(ast.unparse(base) in neighbours for base in node.bases)


RULES: tuple[Rule, ...] = (
    foundation_imports_only_the_standard_library_and_pluggy,
    core_imports_no_vendor,
    core_imports_downward,
    listing_loads_no_torch,
    a_declaration_loads_only_the_foundation,
    a_plugin_imports_no_other_plugin,
    a_plugin_imports_no_private_of_core,
    a_vendor_sdk_is_imported_by_vendor_when_called,
    pytest_stays_in_the_kit,
    strategies_inherit_from_the_contract_alone,
)


def breaches(rule: Rule, root: Path) -> list[str]:
    return [
        f"{module.place}:{line}: {what}"
        for module in shipped_modules(root)
        for line, what in rule(module)
    ]


def test_every_package_is_read() -> None:
    folders = {path.name for path in ROOT.glob("plugins/strategy-*")}
    expected = {"torchrelay", *(f.replace("strategy-", "torchrelay_") for f in folders)}
    assert {module.package for module in shipped_modules(ROOT)} == expected


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_kept(rule: Rule) -> None:
    found = breaches(rule, ROOT)
    assert not found, "\n".join(found)


CORE = "core/src/torchrelay"
PLUGIN = "plugins/strategy-x/src/torchrelay_x"


@pytest.mark.parametrize(
    ("rule", "path", "source", "breach"),
    [
        (
            foundation_imports_only_the_standard_library_and_pluggy,
            f"{CORE}/plugin/specs.py",
            "def f():\n    import numpy",
            "plugin imports numpy",
        ),
        (
            foundation_imports_only_the_standard_library_and_pluggy,
            f"{CORE}/errors.py",
            "from torch import Tensor",
            "errors imports torch",
        ),
        (
            core_imports_no_vendor,
            f"{CORE}/strategies/strategy.py",
            "import deepspeed",
            "core imports deepspeed",
        ),
        (
            core_imports_no_vendor,
            f"{CORE}/strategies/__init__.py",
            "importlib.import_module('torchrelay_ddp.strategy')",
            "core imports the plugin torchrelay_ddp",
        ),
        (
            core_imports_downward,
            f"{CORE}/strategies/strategy.py",
            "def f():\n    from torchrelay.trainer.trainer import Trainer",
            "strategies reaches up to trainer",
        ),
        (
            core_imports_downward,
            f"{CORE}/precision/mixed.py",
            "from ..accelerators import cpu",
            "precision reaches up to accelerators",
        ),
        (
            core_imports_downward,
            f"{CORE}/callbacks/callback.py",
            "from torchrelay import Trainer",
            "core imports torchrelay.Trainer from its own facade",
        ),
        (core_imports_downward, f"{CORE}/helpers.py", "", "helpers is no layer of core"),
        (
            listing_loads_no_torch,
            f"{CORE}/__init__.py",
            "from torch import nn",
            "importing __init__ imports torch",
        ),
        (
            a_declaration_loads_only_the_foundation,
            f"{PLUGIN}/plugin.py",
            "try:\n    import torch\nexcept ImportError:\n    torch = None",
            "plugin imports torch when it is loaded",
        ),
        (
            a_declaration_loads_only_the_foundation,
            f"{PLUGIN}/__init__.py",
            "from torchrelay_x.strategy import XStrategy",
            "__init__ imports torchrelay_x.strategy.XStrategy when it is loaded",
        ),
        (
            a_plugin_imports_no_other_plugin,
            f"{PLUGIN}/strategy.py",
            "if TYPE_CHECKING:\n    from torchrelay_y.strategy import YStrategy",
            "torchrelay_x imports torchrelay_y",
        ),
        (
            a_plugin_imports_no_private_of_core,
            f"{PLUGIN}/strategy.py",
            "from torchrelay.strategies.strategy import _bind",
            "torchrelay_x imports torchrelay.strategies.strategy._bind",
        ),
        (
            a_vendor_sdk_is_imported_by_vendor_when_called,
            f"{PLUGIN}/strategy.py",
            "def f():\n    import xsdk.engine",
            "xsdk is imported outside vendor.py",
        ),
        (
            a_vendor_sdk_is_imported_by_vendor_when_called,
            f"{PLUGIN}/vendor.py",
            "import xsdk",
            "xsdk is imported when vendor.py is",
        ),
        (
            pytest_stays_in_the_kit,
            f"{CORE}/launchers/subprocess_script.py",
            "import pytest",
            "pytest is imported outside",
        ),
        (
            strategies_inherit_from_the_contract_alone,
            f"{PLUGIN}/strategy.py",
            "class B(A): ...\nclass XStrategy(other.YStrategy): ...",
            "XStrategy inherits from YStrategy",
        ),
        (
            strategies_inherit_from_the_contract_alone,
            f"{PLUGIN}/strategy.py",
            "class YStrategy(Strategy): ...\nclass XStrategy(YStrategy):\n  def wrap(self): ...",
            "XStrategy inherits from YStrategy",
        ),
    ],
)
def test_planted_breach_is_caught(
    tmp_path: Path, rule: Rule, path: str, source: str, breach: str
) -> None:
    module = tmp_path / path
    module.parent.mkdir(parents=True)
    module.write_text(source, encoding="utf-8")
    (found,) = breaches(rule, tmp_path)
    assert found.startswith(f"{path}:")
    assert breach in found


@pytest.mark.parametrize("rule", RULES)
def test_lawful_modules_pass(tmp_path: Path, rule: Rule) -> None:
    lawful = {
        f"{CORE}/__init__.py": "def __getattr__(name):\n    from torchrelay.trainer import Trainer",
        f"{CORE}/strategies/strategy.py": (
            "import torch\nfrom torchrelay.plugin.specs import StrategySpec\n"
            "if TYPE_CHECKING:\n    from torchrelay.trainer.trainer import Trainer"
        ),
        f"{CORE}/testing/kit.py": "import pytest\nfrom torchrelay.trainer import Trainer",
        f"{PLUGIN}/__init__.py": "def __getattr__(name):\n    import torchrelay_x.strategy",
        f"{PLUGIN}/plugin.py": "from torchrelay.plugin import StrategySpec, hookimpl",
        f"{PLUGIN}/vendor.py": "def sdk():\n    import xsdk\n    return xsdk",
        f"{PLUGIN}/strategy.py": (
            "import torch\nfrom torchrelay.strategies import ParallelStrategy\n"
            "from torchrelay_x import vendor\nclass XStrategy(ParallelStrategy): ..."
        ),
    }
    for path, source in lawful.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source, encoding="utf-8")
    assert breaches(rule, tmp_path) == []
