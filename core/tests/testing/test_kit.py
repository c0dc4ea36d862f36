"""The kit's own machinery: what becomes of checks that pass, fail, warn, are refused or skipped, and of programs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchrelay.errors import UnknownNameError
from torchrelay.plugin import Capability
from torchrelay.testing import Check, CheckFailed, Kit, Program, Result, Status, Subject
from torchrelay.testing.asking import ASKS
from torchrelay.testing.checks import expect, skip
from torchrelay.testing.context import KIT_VARIABLE
from torchrelay.testing.families import FAMILIES, all_checks, checks_of
from torchrelay.testing.programs import gone
from torchrelay.testing.publishing import markdown, publish
from torchrelay.testing.refusals import NEVER_REFUSED
from torchrelay.testing.runner import environment

WRONG = str(Path(__file__).with_name("wrong"))
ALONE = Subject("single_device", accelerator="cpu")


def make(judge: Any, **fields: Any) -> Check:
    fields = {"name": "made", "family": "loop", "why": "because", "advice": "do it", **fields}
    return Check(judge=judge, **fields)


@pytest.fixture
def kit() -> Any:
    made = Kit(ALONE, version="0.2.0")
    yield made
    made.close()


def passes(case: Any) -> None:
    expect(True, "never")


def fails(case: Any) -> None:
    expect(False, "3 instead of 4")


def breaks(case: Any) -> None:
    raise KeyError("nothing of the kind")


def test_a_failure_says_why_what_was_seen_and_what_to_change(kit: Kit) -> None:
    result = kit.examine(make(fails))
    assert result.status is Status.FAILED
    assert result.message == "loop.made: because\nSeen: 3 instead of 4\nTo change: do it"


def test_a_strategy_that_breaks_a_check_fails_it(kit: Kit) -> None:
    result = kit.examine(make(breaks))
    assert (result.status, result.detail) == (Status.FAILED, "KeyError: 'nothing of the kind'")


@pytest.mark.parametrize(
    ("since", "version", "status"),
    [
        ("0.1", "0.1.3", Status.FAILED),  # the release in which the kit began
        ("0.2", "0.2.0", Status.WARNED),
        ("0.2", "0.2.7", Status.WARNED),
        ("0.2", "0.3.0", Status.FAILED),
        ("0.2", "1.0.0", Status.FAILED),
    ],
)
def test_a_new_check_warns_for_one_release(since: str, version: str, status: Status) -> None:
    kit = Kit(ALONE, version=version)
    try:
        assert kit.examine(make(fails, since=since)).status is status
        assert kit.examine(make(passes, since=since)).status is Status.PASSED
    finally:
        kit.close()


def test_a_check_is_skipped_with_its_reason(kit: Kit) -> None:
    result = kit.examine(make(lambda case: skip("no such thing here")))
    assert (result.status, result.detail) == (Status.SKIPPED, "no such thing here")
    result = kit.examine(make(fails, min_ranks=2))
    assert (result.status, result.detail) == (Status.SKIPPED, "needs 2 processes; there is 1")


def test_without_hardware_everything_but_declarations_is_skipped() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is hardware")
    kit = Kit(Subject("single_device", accelerator="cuda"))
    try:
        assert kit.examine(make(fails)).status is Status.SKIPPED
        assert kit.examine(make(fails, family="declaration")).status is Status.FAILED
    finally:
        kit.close()


def test_an_alias_that_nobody_knows_fails_every_check() -> None:
    kit = Kit(Subject("sinlge_device", accelerator="cpu"))
    try:
        result = kit.examine(make(passes))
    finally:
        kit.close()
    assert result.status is Status.FAILED
    assert "did you mean 'single_device'" in result.detail


def closures(kind: str) -> Result:
    kit = Kit(Subject(f"wrong_refusals:{kind}", accelerator="cpu", python_path=(WRONG,)))
    try:
        return kit.examine(make(fails, capability=Capability.CLOSURE_OPTIMIZERS))
    finally:
        kit.close()


def test_what_is_declared_unsupported_must_be_refused_with_the_reason() -> None:
    result = closures("Refuses")
    assert (result.status, result.detail) == (Status.REFUSED, "it cannot go back")
    result = closures("DoesIt")
    assert result.status is Status.FAILED
    assert "and yet it was done" in result.detail
    result = closures("SaysOtherwise")
    assert result.status is Status.FAILED
    assert "raised no UnsupportedError with that reason" in result.detail


def test_a_partial_capability_may_be_refused_by_its_condition() -> None:
    def refuses(case: Any) -> None:
        raise CheckFailed("UnsupportedError: only on Sundays")

    kit = Kit(Subject("wrong_refusals:Partial", accelerator="cpu", python_path=(WRONG,)))
    try:
        check = make(refuses, capability=Capability.PREDICTION)
        assert kit.examine(check).status is Status.REFUSED
        assert kit.examine(replace(check, judge=fails)).status is Status.FAILED
    finally:
        kit.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("kind", "status"),
    [("OnSundays", Status.REFUSED), ("OnMondays", Status.FAILED), ("Whenever", Status.FAILED)],
)
def test_a_precision_may_be_refused_by_its_condition(kind: str, status: Status) -> None:
    kit = Kit(Subject(f"wrong_refusals:{kind}", accelerator="cpu", python_path=(WRONG,)))
    [check] = [each for each in checks_of("numerics") if each.name == "each_precision"]
    try:
        result = kit.examine(check)
    finally:
        kit.close()
    assert result.status is status, result.detail
    if status is Status.REFUSED:
        assert result.detail == "bf16-mixed: only on Sundays"
    else:
        assert result.detail.startswith("bf16-mixed: rank 0 of 1: UnsupportedError")


@pytest.mark.timeout(240)
def test_unused_parameters_may_count_as_zero_where_that_is_declared() -> None:
    [check] = [each for each in checks_of("numerics") if each.name == "unused_parameters"]
    kit = Kit(
        Subject("wrong_refusals:CountsAsZero", devices=2, accelerator="cpu", python_path=(WRONG,))
    )
    try:
        result = kit.examine(check)
    finally:
        kit.close()
    assert result.status is Status.PASSED, result.detail


def test_a_program_runs_once_and_what_hangs_is_ended(kit: Kit) -> None:
    kit.subject = replace(ALONE, python_path=(WRONG,))
    program = Program("wrong_programs:leave")
    first, again = kit.run(program, kit.subject), kit.run(program, kit.subject)
    assert first is again
    assert first.results("number") == [7]
    assert first.status == 0
    begun = time.monotonic()
    outcome = kit.run(Program("wrong_programs:hang", timeout=5.0), kit.subject)
    assert outcome.hung
    assert time.monotonic() - begun < 15
    assert "had not ended after 5 s" in outcome.ending
    assert 'wrong_programs.py", line' in outcome.stderr  # where it hung
    with pytest.raises(CheckFailed, match="rank 0 did not come so far"):
        outcome.results("number")


def test_a_program_has_the_variables_of_its_subject(kit: Kit) -> None:
    kit.subject = replace(ALONE, python_path=(WRONG,), variables={"ACME_MODE": "lazy"})
    program = Program("wrong_programs:tell", {"variable": "ACME_MODE"})
    assert kit.run(program, kit.subject).results("variable") == ["lazy"]
    other = replace(kit.subject, variables={})
    assert kit.run(program, other).results("variable") == [None]


def test_a_subject_s_variables_replace_none_of_the_kit_s(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("ACME_MODE", "eager")
    mine = {"PYTHONPATH": "elsewhere", "TMPDIR": "elsewhere", KIT_VARIABLE: "1"}
    changed = {"ACME_MODE": "lazy", "OMP_NUM_THREADS": "2"}
    subject = replace(ALONE, python_path=(WRONG,), variables={**mine, **changed})
    found = environment(subject, tmp_path)
    assert found == {**environment(replace(subject, variables={}), tmp_path), **changed}
    assert found["TMPDIR"] == str(tmp_path)


def test_what_a_program_leaves_behind_is_seen_and_ended(kit: Kit) -> None:
    kit.subject = replace(ALONE, python_path=(WRONG,))
    outcome = kit.run(Program("wrong_programs:litter"), kit.subject)
    assert len(outcome.survivors) == 2  # one of them in a session of its own
    assert outcome.left_files == ("work/litter",)
    assert gone(*outcome.survivors, within=5)


def test_a_program_that_raises_leaves_its_error(kit: Kit) -> None:
    kit.subject = replace(ALONE, python_path=(WRONG,))
    outcome = kit.run(Program("wrong_programs:fail"), kit.subject)
    assert outcome.status == 1
    assert outcome.error.is_a("LookupError")
    assert outcome.error.message == "'this one'"


def test_the_report_can_be_published(kit: Kit, tmp_path: Path) -> None:
    told: list[Result] = []
    checks = [
        make(passes),
        make(fails, name="other"),
        make(lambda case: skip("a | b"), name="third"),
    ]
    report = kit.report(checks, told.append)
    assert [result.status.value for result in told] == ["passed", "failed", "skipped"]
    assert not report.conforms
    text, data = publish(report, tmp_path / "new" / "report.md")
    assert (text.name, data.name) == ("report.md", "report.json")
    found = json.loads(data.read_text())
    assert found["counts"] == {
        "passed": 1,
        "refused as declared": 0,
        "skipped": 1,
        "warned": 0,
        "failed": 1,
    }
    assert found["conforms"] is False
    assert found["checks"][1]["detail"].endswith("To change: do it")
    page = markdown(report)
    assert "| loop | third | basic | skipped: a \\| b |" in page
    assert "does not conform" in page
    assert "3 instead of 4" in page


def test_every_check_is_well_described() -> None:
    for check in all_checks():
        where = f"{check.family}.{check.name}"
        assert check.family in FAMILIES, where
        for sentence in (check.why, check.advice):
            assert 20 < len(sentence) <= 240, where
            assert "\n" not in sentence, where
            assert not sentence.endswith("."), where
        assert check.judge.__doc__, where


def test_every_capability_has_a_check_and_can_be_asked_for() -> None:
    # They say which numbers to expect, and when Python runs; nothing asks for them.
    by_design = {
        Capability.EXACT_AVERAGING,
        Capability.UNUSED_LEFT_OUT,
        Capability.EAGER_STEPS,
    }
    checked = {check.capability for check in all_checks()}
    assert checked - {None} == set(Capability) - by_design
    assert set(ASKS) == set(Capability) - by_design - set(NEVER_REFUSED)


def test_a_family_that_does_not_exist() -> None:
    with pytest.raises(UnknownNameError, match="no family 'loops'; there are declaration"):
        checks_of("loops")


def test_a_subject_travels_as_json() -> None:
    subject = Subject("ddp", 2, "cpu", presets={"a": 1}, python_path=("x",))
    assert Subject.from_json(subject.to_json()) == subject
    assert str(subject) == "ddp (cpu, devices=2)"
    assert not subject.is_class
    assert not Subject("torchrelay-ddp:ddp").is_class
    assert Subject("acme.strategy:AcmeStrategy").is_class
    assert subject.alone() == Subject("single_device", 1, "cpu", python_path=("x",))
    mode = {"ACME_MODE": "lazy"}
    apart = Subject("acme", 2, "npu", reference="cpu", variables=mode)
    assert apart.alone() == Subject("single_device", 1, "cpu", reference="cpu", variables=mode)
    assert Subject.from_json(apart.to_json()) == apart
    assert str(apart) == "acme (npu, devices=2, ACME_MODE=lazy, reference=cpu)"
