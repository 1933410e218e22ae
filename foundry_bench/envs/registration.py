"""Makes Gymnasium know our environments; called by Gymnasium itself, through our entry point."""

from __future__ import annotations

import gymnasium

from foundry_bench.envs.suites import suite_names


def register() -> None:
    """Register ``foundry_bench/<suite>-v0`` for every suite. Imports no simulator."""
    for name in suite_names():
        identifier = f"foundry_bench/{name}-v0"
        if identifier not in gymnasium.registry:
            gymnasium.register(
                identifier,
                entry_point="foundry_bench.envs.libero:LiberoEnv",
                kwargs={"suite": name},
                disable_env_checker=True,
            )
