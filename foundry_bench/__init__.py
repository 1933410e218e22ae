"""foundry-bench: train vision-language-action policies from scratch and judge them closed loop.

The public names below are loaded on first use, so that ``import foundry_bench`` costs milliseconds and
starts neither torch nor MuJoCo::

    import foundry_bench as fb

    env = fb.make_env("libero_spatial", task=3)
    policy = fb.load_policy("results/libero-quick/train/checkpoint")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foundry_bench.errors import FoundryError

if TYPE_CHECKING:
    from foundry_bench.envs import make_env
    from foundry_bench.envs.suites import suite
    from foundry_bench.evaluation.records import read_records
    from foundry_bench.evaluation.runner import evaluate
    from foundry_bench.policies.base import load_policy

__version__ = "0.1.0"

__all__ = ["FoundryError", "__version__", "evaluate", "load_policy", "make_env", "read_records", "suite"]

_HOMES = {
    "evaluate": "foundry_bench.evaluation.runner",
    "load_policy": "foundry_bench.policies.base",
    "make_env": "foundry_bench.envs",
    "read_records": "foundry_bench.evaluation.records",
    "suite": "foundry_bench.envs.suites",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'foundry_bench' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
