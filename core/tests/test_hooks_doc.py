"""docs/hooks.md is what its generator gives; every hook is documented, and every hook is called."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchrelay.checkpoint import TorchCheckpointIO
from torchrelay.checkpoint.conversion import convert
from torchrelay.errors import CheckpointError
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
    "torchrelay_checkpoint_formats": (
        "test_hooks_doc.py::test_a_form_of_a_plugins_own_is_converted"
    ),
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


FORMAT = """
    @hookimpl
    def torchrelay_checkpoint_formats():
        yield CheckpointFormatSpec(
            name="halves", target="acme_halves:read", recognizes="acme_halves:is_one", description="Two files."
        )
"""
HALVES = """
    from pathlib import Path

    def is_one(path):
        return Path(path).is_dir() and len(list(Path(path).glob("half-*"))) == 2

    def read(path):
        import torch

        halves = [torch.load(each) for each in sorted(Path(path).glob("half-*"))]
        return {"state_dict": {"weight": torch.cat(halves)}, "epoch": 1, "global_step": 2}
"""


@pytest.mark.parametrize("form", ["canonical", "weights"])
def test_a_form_of_a_plugins_own_is_converted(installed, tmp_path, form):
    installed("acme-halves-plugin", FORMAT, files={"acme_halves.py": HALVES})
    folder = tmp_path / "saved"
    folder.mkdir()
    for number in (0, 1):
        torch.save(torch.full((1,), float(number)), folder / f"half-{number}")
    convert(folder, tmp_path / "whole.ckpt", form)
    found = TorchCheckpointIO().load_checkpoint(tmp_path / "whole.ckpt")
    assert found["state_dict"]["weight"].tolist() == [0.0, 1.0]
    assert found["global_step"] == 2
    (folder / "half-1").unlink()
    with pytest.raises(CheckpointError, match="saved"):
        convert(folder, tmp_path / "other.ckpt", form)


def test_the_generator_needs_no_torch():
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, DOCS / "generate_hooks.py"], timeout=60)
    assert done.returncode == 0
