"""Policies: what maps observations to action chunks."""
