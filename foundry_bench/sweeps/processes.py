"""The processes that torchrun starts beside the first: they take part in training and in nothing else.

The first one does everything that an experiment is: it takes the lock, makes pairs and demonstrations, keeps
the state, judges and reports. The others wait until it trains, are told what with, and train with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from omegaconf import DictConfig

from foundry_bench import runtime
from foundry_bench.sweeps.state import ExperimentState

_T = TypeVar("_T")


class Onlooker(ExperimentState):
    """An experiment's state in a process that must not write it."""

    def _save(self) -> None:
        """The first process does."""


@contextmanager
def training_together(config: DictConfig, told: Any = None) -> Iterator[Any]:
    """The block is entered by all processes at once; yields what the first was given as ``told``.

    Raises:
        FoundryError: torchrun started several, but ``train.parallel`` is none.
    """
    if runtime.processes() == 1:
        yield told
        return
    from foundry_bench.training.distributed import joined

    with joined(str(config.train.parallel), str(config.device)) as world:
        yield world.share(told)


def told_by_the_first(config: DictConfig, work: Callable[[], _T]) -> _T:
    """What ``work``, a plain value, comes to in the first process, which alone does it; all must call.

    Raises:
        FoundryError: as for `training_together`.
    """
    if runtime.processes() == 1:
        return work()
    from foundry_bench.training.distributed import joined

    with joined(str(config.train.parallel), str(config.device)) as world:
        return world.share(work() if world.writes else None)  # type: ignore[no-any-return]
