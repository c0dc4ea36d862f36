"""Simulated: random numbers of one device."""

from __future__ import annotations

from habana_frameworks.torch.hpu.device import generator

__all__ = [
    "get_rng_state",
    "get_rng_state_all",
    "manual_seed",
    "manual_seed_all",
    "set_rng_state",
    "set_rng_state_all",
]


def _only(device):
    if str(device) not in ("hpu", "hpu:0", "0"):
        raise RuntimeError("hpu get_rng_state supports only device 0")


def get_rng_state(device="hpu"):
    _only(device)
    return generator.get_state()


def set_rng_state(new_state, device="hpu"):
    _only(device)
    generator.set_state(new_state)


def get_rng_state_all():
    return [get_rng_state(0)]


def set_rng_state_all(new_states):
    if len(new_states) != 1:
        raise RuntimeError("hpu set_rng_state_all supports only states len of 1")
    set_rng_state(new_states[0], 0)


def manual_seed(seed):
    return generator.manual_seed(int(seed))


def manual_seed_all(seed):
    manual_seed(seed)
