"""What is declared unsupported must be refused, with the declared error and reason, not done badly.

Each capability has a program that asks for it. A check of a capability that is declared unsupported becomes the demand
that this program is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.plugin.specs import Capability, Declaration
from torchrelay.testing.checks import Check, Program, expect, skip

if TYPE_CHECKING:
    from torchrelay.testing.kit import Kit
    from torchrelay.testing.outcome import Seen


NEVER_REFUSED = {
    Capability.UNEVEN_EVALUATION: "the Trainer gives every rank the same number of batches",
}
"""What is heeded, rather than refused, where it is declared unsupported."""


def judge_refusal(check: Check, kit: Kit, declared: Declaration) -> None:
    """Demand that what a check exercises ends by UnsupportedError with the declared reason.

    Args:
        check: has a capability, which is declared unsupported.
        kit: runs the program that asks for it.
        declared: the declaration.

    Raises:
        CheckFailed: it does not.
        CheckSkipped: nobody refuses it.
    """
    capability = check.capability or Capability.EVALUATION
    if capability in NEVER_REFUSED:
        skip(f"declared unsupported ({declared.reason}): {NEVER_REFUSED[capability]}")
    asking = Program("torchrelay.testing.asking:ask", {"capability": capability.name})
    outcome = kit.run(asking, kit.subject)
    what = f"{capability.value} is declared unsupported ({declared.reason})"
    expect(not outcome.hung, f"{what}, and asking for it hangs: {outcome.ending}")
    expect(
        outcome.status != 0,
        f"{what}, and yet it was done: refuse it in `refusals`, or by `require` in setup",
    )
    refused = [_flat(seen.message) for seen in outcome.errors if _is_refusal(seen)]
    expect(
        any(_flat(reason) in text for reason in _reasons(capability, kit) for text in refused),
        f"{what}, and asking for it raised no UnsupportedError with that reason: {outcome.ending}",
    )


def _reasons(capability: Capability, kit: Kit) -> list[str]:
    """The reasons that may be given; several optimizers are asked for by hand, which may be refused before."""
    asked = [capability]
    if capability is Capability.MULTIPLE_OPTIMIZERS:
        asked.append(Capability.MANUAL_OPTIMIZATION)
    return [kit.capabilities[each].reason for each in asked if kit.capabilities[each].reason]


def _is_refusal(seen: Seen) -> bool:
    """An UnsupportedError, or what a spawning launcher reports of one in another process."""
    return seen.is_a("UnsupportedError") or (
        seen.is_a("WorkerError") and "refuses it" in seen.message
    )


def _flat(text: str) -> str:
    return " ".join(text.split())
