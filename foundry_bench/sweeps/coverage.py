"""Which tasks a configuration stands for, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from foundry_bench.envs.suites import Suite, Task, resolve_suites, suite_names
from foundry_bench.errors import FoundryError, nearest


def selected_tasks(config: DictConfig) -> list[Task]:
    """The tasks of ``suite=`` that ``tasks=`` keeps, in suite order.

    ``tasks`` is null (all), a list of numbers for every suite, or a mapping from suite to such. A mapping
    may have an entry for the name given as ``suite=`` (also for ``libero``), which then counts alone, and
    one called ``default`` for suites it does not name; a suite it does not cover contributes nothing.

    Raises:
        FoundryError: unknown suite, a number outside of a suite, or nothing selected.
    """
    suites = resolve_suites(config.suite)
    wanted = OmegaConf.to_container(config.tasks) if OmegaConf.is_config(config.tasks) else config.tasks
    if isinstance(wanted, dict) and config.suite in wanted:
        wanted = wanted[config.suite]
    if isinstance(wanted, dict):
        known = ("libero", "default", *suite_names())
        for name in map(str, wanted):
            if name not in known:
                raise FoundryError(f"tasks={{{name}:...}}: no such suite, {nearest(name, known)}")
    chosen = [task for suite in suites for task in _of_suite(suite, wanted)]
    if not chosen:
        raise FoundryError(f"tasks: nothing of suite={config.suite} is selected; tasks=null takes every task")
    return chosen


def total_tasks(config: DictConfig) -> int:
    """How many tasks ``suite=`` has."""
    return sum(len(suite.tasks) for suite in resolve_suites(config.suite))


def coverage(config: DictConfig, tasks: Sequence[Task]) -> str:
    """The sentence for the first and the last line of a run."""
    total = total_tasks(config)
    episodes = f"{config.eval.episodes} episode{'s' if config.eval.episodes != 1 else ''} each"
    if len(tasks) == total:
        return f"{config.suite}, scale {config.scale}: all {total} tasks, {episodes}"
    return (
        f"{config.suite}, scale {config.scale}: {len(tasks)} of {total} tasks, {episodes}; all: scale=laptop"
    )


def skipped_tasks(demos: dict[str, Any] | None) -> str:
    """What to add to the sentence when tasks had no demonstrations: "; 2 skipped (no demonstrations)"."""
    skipped = len(demos["skipped"]) if demos else 0
    return f"; {skipped} of them skipped (no demonstrations)" if skipped else ""


def _of_suite(suite: Suite, wanted: Any) -> list[Task]:
    numbers = wanted
    if isinstance(wanted, dict) and suite.name in wanted:
        numbers = wanted[suite.name]
    elif isinstance(wanted, dict):
        numbers = wanted.get("default", [])
        if numbers is not None:  # said of suites in general, which may have fewer tasks
            numbers = [number for number in numbers if number < len(suite.tasks)]
    if numbers is None:
        return list(suite.tasks)
    for number in numbers:
        if not 0 <= number < len(suite.tasks):
            raise FoundryError(f"tasks={number}: {suite.name} has tasks 0 to {len(suite.tasks) - 1}")
    return [suite.tasks[number] for number in sorted(set(numbers))]
