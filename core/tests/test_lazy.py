from __future__ import annotations

import subprocess
import sys

import pytest

PACKAGES = ["accelerators", "checkpoint", "collectives", "precision"]


def in_fresh_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_packages_import_no_torch_until_a_name_is_used() -> None:
    imports = "; ".join(f"import torchrelay.{package}" for package in PACKAGES)
    found = in_fresh_python(
        f"import sys; {imports}; import torchrelay.precision.names; print('torch' in sys.modules)"
    )
    assert found == "False"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    module = __import__(f"torchrelay.{package}", fromlist=["*"])
    for name in module.__all__:
        assert getattr(module, name).__name__ == name or name == "ReduceOp"
    assert set(module.__all__) <= set(dir(module))
    assert list(module.__all__) == sorted(module.__all__)


def test_unknown_name_is_an_attribute_error_of_the_package() -> None:
    import torchrelay.precision

    with pytest.raises(AttributeError, match=r"'torchrelay.precision' has no attribute 'Nothing'"):
        torchrelay.precision.Nothing  # noqa: B018


def test_submodules_can_be_imported_beside_lazy_names() -> None:
    assert in_fresh_python("from torchrelay.checkpoint import rng; print(rng.__name__)") == (
        "torchrelay.checkpoint.rng"
    )
