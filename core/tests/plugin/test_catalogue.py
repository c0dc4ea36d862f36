from __future__ import annotations

import importlib

import importlib_metadata
import pytest

from torchrelay.plugin import catalogue
from torchrelay.plugin.specs import StrategySpec


def test_every_alias_is_one_that_a_plugin_could_give():
    for backend in catalogue.BACKENDS:
        for alias in backend.aliases:
            assert StrategySpec(alias=alias, target="a:A", description="A.").alias == alias


def test_no_two_backends_give_the_same_name():
    for names in (
        [a for b in catalogue.BACKENDS for a in b.aliases if a not in b.shared],
        [name for b in catalogue.BACKENDS for name in b.strategies],
        [name for b in catalogue.BACKENDS for name in b.accelerators],
        [b.distribution for b in catalogue.BACKENDS],
    ):
        assert len(names) == len(set(names))


def test_shared_aliases_belong_to_another_backend_and_are_bound_to_an_accelerator():
    for backend in catalogue.BACKENDS:
        for alias in backend.shared:
            assert backend.accelerators
            assert catalogue.backend_of_alias(alias) is not backend
            assert catalogue.backend_of_alias(alias, backend.accelerators[0]) is backend


def test_a_retired_name_is_no_living_one():
    living = {alias for backend in catalogue.BACKENDS for alias in backend.aliases}
    assert not living & set(catalogue.RETIRED)


def test_what_is_said_to_be_published_is_an_extra_of_core():
    metadata = importlib_metadata.metadata("torchrelay")
    extras = set(metadata.get_all("Provides-Extra") or [])
    assert {b.extra for b in catalogue.BACKENDS if b.published} == extras & {
        b.extra for b in catalogue.BACKENDS
    }


@pytest.mark.parametrize("backend", [b for b in catalogue.BACKENDS if b.published], ids=str)
def test_a_published_backend_gives_what_the_catalogue_says(backend):
    module = pytest.importorskip(f"{backend.distribution.replace('-', '_')}.plugin")
    specs = list(importlib.import_module(module.__name__).torchrelay_strategies())
    given = {(spec.target.partition(":")[2], spec.alias) for spec in specs}
    said = {(name, alias) for name, aliases in backend.strategies.items() for alias in aliases}
    assert said == {(name, alias) for name, alias in given if alias not in backend.shared}
    assert set(backend.shared) <= {alias for _, alias in given}


def test_lookups_of_nothing():
    assert catalogue.backend_of_alias("nothing", "cpu") is None
    assert catalogue.backend_of_class("Nothing") is None
    assert catalogue.backend_of_accelerator("cpu") is None
