"""Simulated: what torch's compiler is given."""
