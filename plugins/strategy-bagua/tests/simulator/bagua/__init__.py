"""A SIMULATOR of Bagua's Python interface, for the tests of torchrelay-bagua alone; Bagua itself runs on GPUs.

It has what the tests need of the names in Bagua's wheel, with their signatures, enforces the rules that its sources
document, and communicates by gloo. What is behind the names is in `bagua_simulated`.
"""

from __future__ import annotations

from bagua.version import __version__ as __version__
