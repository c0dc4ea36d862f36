from __future__ import annotations

import pytest

from torchrelay.cli.diagnosis.examination import Item, examine

CODE = {
    "fine.py": "class A:\n    pass\ndef ok(): return None\n",
    "hangs.py": "import time\ntime.sleep(600)\n",
    "leaves.py": "import os\nos._exit(7)\n",
    "aborts.py": "import os\nos.abort()\n",
}


@pytest.fixture
def code(site):
    for name, text in CODE.items():
        site.write(name, text)


def test_nothing_to_do_starts_nothing():
    assert examine([]) == []


@pytest.mark.timeout(60)
def test_one_that_hangs_is_given_up_and_the_rest_is_not_examined(code):
    items = [Item("import", f"{name}:A") for name in ("fine", "hangs", "fine", "fine")]
    assert examine(items, patience=1.5) == [
        "",
        "hangs:A did not come to an end in 1.5 s",
        *["not examined: hangs:A did not come to an end in 1.5 s"] * 2,
    ]


@pytest.mark.parametrize(("module", "end"), [("leaves", "exit code 7"), ("aborts", "SIGABRT")])
def test_one_that_ends_the_process_is_named(module, end, code):
    items = [Item("check", "fine:ok"), Item("import", f"{module}:A"), Item("import", "fine:A")]
    reason = f"{module}:A ended the process ({end})"
    assert examine(items) == ["", reason, f"not examined: {reason}"]
