"""Simulated: the compiler."""
