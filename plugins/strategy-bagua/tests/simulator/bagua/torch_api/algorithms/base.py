"""What an algorithm is before it is tied to a group."""

from __future__ import annotations

GlobalAlgorithmRegistry: dict[str, type] = {}


class Algorithm:
    @classmethod
    def init(cls, name, **kwargs):
        return GlobalAlgorithmRegistry[name](**kwargs)

    def reify(self, process_group):
        raise NotImplementedError
