"""Two processes run the scenarios that are named, perhaps with the strategy broken in one way."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import scenarios


def main() -> None:
    if broken := os.environ.get("BROKEN"):
        import broken_ways

        broken_ways.WAYS[broken]()
    for name in sys.argv[1:]:
        scenarios.leave(name, int(os.environ.get("RANK", "0")))


if __name__ == "__main__":
    main()
