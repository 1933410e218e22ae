"""What simulating LIBERO costs: stock LIBERO and ours, side by side in one run.

    python benchmarks/simulation.py                       # libero_spatial task 0, two 128 px cameras
    python benchmarks/simulation.py --suite libero_10 --task 8 --steps 40

Each side runs in a process of its own (two OpenGL contexts in one process disturb each other), one after the
other, with one software-rendering thread, so that the ratios hold on a noisy machine. Rows:

- construct: until the environment exists; ours with a scene that is in the cache already (cold in brackets);
- begin: everything before the policy's first observation: reset, init state, ten settling steps;
- step: one control step with both cameras drawn;
- step, every 4th drawn: the same inside action chunks of four, of which only the last frame is looked at;
- episode: begin and 100 steps in chunks of four (stock draws every frame: it has no way not to).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_ROWS = ("construct", "begin", "step", "step, every 4th drawn", "episode")
_CHUNK = 4


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds a call took, and what it returned."""
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def stock(suite: str, index: int, steps: int) -> dict[str, float]:
    """Seconds of each row with LIBERO's OffScreenRenderEnv."""
    from foundry_bench.envs.stock import StockLibero
    from foundry_bench.envs.suites import init_states, task

    what = task(suite, index)
    construct, env = timed(lambda: StockLibero(what, images=128))
    begin, _ = timed(lambda: env.begin(init_states(what)[0], {}, wait_steps=10))
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (steps, 7))
    step = timed(lambda: [env.env.step(action) for action in actions])[0] / steps
    env.close()
    return dict(zip(_ROWS, (construct, begin, step, step, begin + 100 * step), strict=True))


def ours(suite: str, index: int, steps: int, profile: str) -> dict[str, float]:
    """Seconds of each row with our environment."""
    from foundry_bench.envs.libero import LiberoEnv

    def make() -> LiberoEnv:
        env = LiberoEnv(index, suite, image_size=128, render_profile=profile)
        env.simulation.frame("agentview")  # the renderer is made with the first frame
        return env

    construct, env = timed(make)
    env.reset(seed=0, options={"init_state": 1})
    begin, _ = timed(lambda: env.reset(seed=0, options={"init_state": 0}))
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (steps, 7))
    step = timed(lambda: [env.step(action) for action in actions])[0] / steps
    chunks = actions.reshape(-1, _CHUNK, 7)
    chunked = timed(lambda: [env.step_chunk(chunk) for chunk in chunks])[0] / steps
    return dict(zip(_ROWS, (construct, begin, step, chunked, begin + 100 * chunked), strict=True))


def measure(side: str, arguments: argparse.Namespace, cache: str) -> dict[str, float]:
    """Run one side in a process of its own."""
    environment = {
        **os.environ,
        "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"),
        "PYOPENGL_PLATFORM": os.environ.get("PYOPENGL_PLATFORM", "egl"),
        "FOUNDRY_BENCH_CACHE": cache,
        "LP_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, "--suite", arguments.suite, "--task", str(arguments.task)]
    command += ["--steps", str(arguments.steps), "--side", side]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--suite", default="libero_spatial")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40, help="timed steps, a multiple of 4")
    parser.add_argument("--side", choices=["stock", "fast", "exact"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < _CHUNK or arguments.steps % _CHUNK:
        parser.error(f"--steps {arguments.steps}: must be a positive multiple of {_CHUNK}")
    if arguments.side == "stock":
        print(json.dumps(stock(arguments.suite, arguments.task, arguments.steps)))
        return
    if arguments.side:
        print(json.dumps(ours(arguments.suite, arguments.task, arguments.steps, arguments.side)))
        return
    with tempfile.TemporaryDirectory() as cache:
        cold = measure("fast", arguments, cache)["construct"]
        fast = measure("fast", arguments, cache)
        measure("exact", arguments, cache)
        exact = measure("exact", arguments, cache)
        reference = measure("stock", arguments, cache)
    print(f"{arguments.suite} task {arguments.task}, two 128 px cameras; ms, and times faster than stock")
    print(f"{'':24}{'stock':>10}{'exact':>10}{'':>8}{'fast':>10}{'':>8}")
    for row in _ROWS:
        base = reference[row]
        cells = "".join(f"{1000 * side[row]:10.1f}{base / side[row]:7.1f}x" for side in (exact, fast))
        print(f"{row:24}{1000 * base:10.1f}{cells}")
    print(f"construct with an empty scene cache, fast: {1000 * cold:.0f} ms")


if __name__ == "__main__":
    main()
