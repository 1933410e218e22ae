"""Scripted experts: privileged-state controllers that solve tasks and make the demonstrations."""

#: Named in every demonstration and record; raise it when the same seed would give other actions.
EXPERT_VERSION = "scripted-9"
