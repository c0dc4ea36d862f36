"""How a backend joins torchrelay.

A backend is a distribution with one module of hooks. Two entry points tell torchrelay where it is,
and for which version of the contract it was written::

    # pyproject.toml
    [project]
    name = "acme-relay"
    version = "1.0"
    dependencies = ["torchrelay>=0.1,<1"]

    [project.entry-points.torchrelay]
    acme = "acme_relay.plugin"

    [project.entry-points."torchrelay.contract"]
    v1 = "acme_relay.plugin"

The module returns data; it imports neither torch nor the vendor's SDK::

    # acme_relay/plugin.py
    from torchrelay.plugin import StrategySpec, hookimpl

    @hookimpl
    def torchrelay_strategies():
        return [
            StrategySpec(
                alias="acme",
                target="acme_relay.strategy:AcmeStrategy",
                description="One device, and a greeting.",
            )
        ]

The target is imported when somebody writes `Trainer(strategy="acme")`::

    # acme_relay/strategy.py
    from torchrelay.strategies import SingleDeviceStrategy

    class AcmeStrategy(SingleDeviceStrategy):
        def setup_environment(self):
            print("hello from acme")
            super().setup_environment()

`hookspecs.py` lists every hook, `specs.py` everything that a hook may return.
"""

from __future__ import annotations

import pluggy

from torchrelay.plugin.hookspecs import PROJECT
from torchrelay.plugin.specs import (
    CONTRACT_VERSION,
    OLDEST_CONTRACT_VERSION,
    AcceleratorSpec,
    Capabilities,
    Capability,
    CheckpointFormatSpec,
    CheckpointIOSpec,
    Declaration,
    DiagnosticSpec,
    EnvironmentSpec,
    Hardware,
    PrecisionSpec,
    Requirement,
    StrategySpec,
    Support,
    partial,
    unsupported,
)

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin module as the implementation of the hook of the same name."""

__all__ = [
    "CONTRACT_VERSION",
    "OLDEST_CONTRACT_VERSION",
    "AcceleratorSpec",
    "Capabilities",
    "Capability",
    "CheckpointFormatSpec",
    "CheckpointIOSpec",
    "Declaration",
    "DiagnosticSpec",
    "EnvironmentSpec",
    "Hardware",
    "PrecisionSpec",
    "Requirement",
    "StrategySpec",
    "Support",
    "hookimpl",
    "partial",
    "unsupported",
]
