"""What the machine offers and how it is shared: cores, threads, renderer.

Nothing here runs at import: each function is called by whoever starts the work.
"""

from __future__ import annotations

import os
import sys


def cores() -> int:
    """Cores this process may run on (a container or ``taskset`` may allow fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def processes() -> int:
    """How many processes torchrun started for this command, on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_number() -> int:
    """Which of them this one is; the first, 0, does all that is done once."""
    return int(os.environ.get("RANK", "0"))


def training_threads() -> int:
    """Threads for training: all cores, shared with the processes that torchrun started on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def worker_count(wanted: int | None) -> int:
    """Simulator processes to start: what the user asked for, else one per core."""
    return wanted if wanted is not None else cores()


def use_torch_threads(count: int) -> None:
    """Let torch compute with ``count`` threads.

    Training has the machine to itself and takes every core. During evaluation the simulators need the
    cores, and a small policy is no faster with more than one thread: take 1.
    """
    import torch

    torch.set_num_threads(max(1, count))


def prepare_threads() -> None:
    """Make OpenMP threads give way to other processes soon. Call before torch is imported.

    Two torch threads that wait for each other by spinning make a tenth of the progress when anything else
    runs on their cores (measured: 10 to 28 training samples a second instead of 240). Spinning less costs a
    tenth on an idle machine and keeps about half of the speed on a busy one.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def prepare_rendering() -> None:
    """Choose headless rendering (EGL) unless the user chose otherwise. Call before MuJoCo is imported."""
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        if os.environ["MUJOCO_GL"] == "egl":
            os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
