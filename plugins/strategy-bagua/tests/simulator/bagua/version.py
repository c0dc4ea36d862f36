"""The release that is simulated."""

from __future__ import annotations

__version__ = "0.9.3.dev6+simulated"
