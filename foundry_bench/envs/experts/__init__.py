"""Scripted experts: privileged-state controllers that solve tasks and make the demonstrations."""
