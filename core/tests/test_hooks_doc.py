"""docs/hooks.md is what its generator gives; every hook is documented, and every hook is called."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay.plugin.offers import KINDS
from torchrelay.plugin.registry import refresh

TESTS = Path(__file__).parent
DOCS = TESTS.parents[1] / "docs"

EXERCISED = {
    "torchrelay_strategies": "plugin/test_registry.py::test_an_alias_is_found_with_its_owner",
    "torchrelay_accelerators": "plugin/test_registry.py::test_accelerators",
    "torchrelay_cluster_environments": (
        "plugin/test_registry.py::test_environments_come_by_priority"
    ),
    "torchrelay_precision_plugins": "plugin/test_registry.py::test_a_precision_for_one_accelerator",
    "torchrelay_checkpoint_ios": "test_hooks_doc.py::test_a_checkpoint_io_of_a_plugin_is_used",
    "torchrelay_diagnostics": "cli/test_doctor.py::test_the_checks_of_plugins_are_made_behind_a_guard",
    "torchrelay_before_launch": "trainer/test_run.py::test_plugins_hear_of_a_run",
    "torchrelay_after_setup": "trainer/test_run.py::test_plugins_hear_of_a_run",
    "torchrelay_on_exception": "trainer/test_run.py::test_plugins_hear_of_an_exception",
    "torchrelay_after_teardown": "trainer/test_run.py::test_plugins_hear_of_an_exception",
}
"""Hook -> the test that says what comes of it."""


def load_generator():
    spec = importlib.util.spec_from_file_location("generate_hooks", DOCS / "generate_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = load_generator()
HOOKS = generator.hooks()


def test_the_page_is_what_the_generator_gives():
    made = "\n\n".join(generator.page()) + "\n"
    written = (DOCS / "hooks.md").read_text(encoding="utf-8")
    assert written == made, "python docs/generate_hooks.py > docs/hooks.md"


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented(name):
    told = generator.sections(HOOKS[name])
    parameters = set(inspect.signature(HOOKS[name]).parameters)
    assert told[""].endswith(".")
    for section in ("Called", "Where", "Returns", "If it raises"):
        assert told[section].endswith("."), section
    assert set(generator.arguments(told.get("Args", ""))) == parameters


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_every_field_is_described(kind):
    for paragraph in generator.of_spec(kind):
        assert "|  |\n" not in paragraph.partition("---")[2] + "\n"


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_test_that_says_what_comes_of_it(name):
    file, _, test = EXERCISED[name].partition("::")
    source = (TESTS / file).read_text(encoding="utf-8")
    assert f"def {test}(" in source
    assert f"def {name}(" in source


def hearing(name: str) -> str:
    """An implementation of a hook that writes down what it was called with."""
    parameters = ", ".join(inspect.signature(HOOKS[name]).parameters)
    return (
        f"@hookimpl\ndef {name}({parameters}):\n    calls.append(({name!r}, [{parameters}]))\n"
        + ("    return ()\n" if name in KINDS else "")
    )


@pytest.fixture
def installed(site):
    """Installs a plugin for the registry of this process; gives its module."""

    def install(name, code, **files):
        module = site.plugin(name, code, **files)
        assert refresh().failures == ()
        return sys.modules[module]

    yield install
    # Other tests shall not see it.
    sys.path.remove(str(site.path))
    refresh()
    sys.path.insert(0, str(site.path))


def test_every_hook_is_called(installed, boring, make_trainer):
    code = "calls = []\n" + "".join(hearing(name) for name in HOOKS)
    calls = installed("acme-observer", code).calls
    error = ZeroDivisionError("bug")

    def training_step(self, batch, batch_idx):
        raise error

    trainer = make_trainer()
    with pytest.raises(ZeroDivisionError):
        trainer.fit(boring.regression(training_step=training_step), boring.loader())
    assert [name for name, _ in calls] == list(HOOKS)
    for name, arguments in calls:
        given = {"strategy": trainer.strategy, "error": error}
        assert arguments == [given[each] for each in inspect.signature(HOOKS[name]).parameters]


CHECKPOINT_IO = """
    @hookimpl
    def torchrelay_checkpoint_ios():
        return [CheckpointIOSpec(name="noted", target="acme_io:NotedIO", description="Takes notes.")]
"""
NOTED_IO = """
    from torchrelay.checkpoint import TorchCheckpointIO

    class NotedIO(TorchCheckpointIO):
        written = []

        def save_checkpoint(self, checkpoint, path):
            self.written.append(path)
            super().save_checkpoint(checkpoint, path)
"""


def test_a_checkpoint_io_of_a_plugin_is_used(installed, boring, make_trainer, tmp_path):
    installed("acme-io-plugin", CHECKPOINT_IO, files={"acme_io.py": NOTED_IO})
    trainer = make_trainer(plugins="noted")
    trainer.fit(boring.regression(), boring.loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert sys.modules["acme_io"].NotedIO.written == [str(tmp_path / "one.ckpt")]


def test_the_generator_needs_no_torch():
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, DOCS / "generate_hooks.py"], timeout=60)
    assert done.returncode == 0
