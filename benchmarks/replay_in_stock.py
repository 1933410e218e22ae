"""Do successes from here succeed in stock LIBERO?

Replays demonstrations of a dataset, and rollouts of a checkpoint from official init states, action by action
in LIBERO's own `OffScreenRenderEnv`, and asks its own success check:

    python benchmarks/replay_in_stock.py --dataset results/data/NAME --episodes 10
    python benchmarks/replay_in_stock.py --checkpoint results/NAME/train/checkpoint --suite libero_object

Rollouts are made again here to have their actions; episode k is task k mod 10, init state k div 10.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundry_bench import runtime


@dataclass
class Run:
    """A successful episode: where it started and what was executed."""

    name: str
    suite: str
    task: int
    state: np.ndarray
    fixtures: dict[str, list[float]]
    actions: np.ndarray


def demonstrations(root: Path, count: int) -> Iterator[Run]:
    """Demonstrations spread evenly over a dataset."""
    from foundry_bench.data.lerobot import RobotDataset

    dataset = RobotDataset(root)
    for index in np.linspace(0, len(dataset.episodes) - 1, count).round().astype(int):
        episode = dataset.episode(int(index))
        yield Run(
            f"demonstration {index}",
            episode.suite,
            episode.task_index,
            episode.init_state,
            episode.fixtures,
            episode.action.astype(np.float64),
        )


def rollouts(checkpoint: str, suite: str, count: int, replan: int) -> Iterator[Run]:
    """Successful rollouts of a policy from official init states."""
    from foundry_bench.envs.libero import LiberoEnv
    from foundry_bench.policies.base import load_policy

    policy = load_policy(checkpoint)
    environments: dict[int, LiberoEnv] = {}
    for number in range(count):
        task, init_state = number % 10, number // 10
        if task not in environments:
            environments[task] = LiberoEnv(task, suite, image_size=policy.spec.image_size)
        env = environments[task]
        observation, start = env.reset(seed=number, options={"init_state": init_state})
        executed: list[np.ndarray] = []
        while True:
            batch = {key: observation[key][None] for key in (*policy.spec.cameras, "state")}
            batch["instruction"] = [observation["instruction"]]
            chunk = policy.predict(batch, [number * 1000 + len(executed)])[0][:replan]
            observation, _, success, truncated, info = env.step_chunk(chunk)
            executed += list(np.asarray(chunk[: info["steps"]], dtype=np.float64))
            if success or truncated:
                break
        print(
            f"rollout of {suite} task {task}, init state {init_state}: {'success' if success else 'failure'}"
        )
        if success:
            name = f"rollout of init state {init_state}"
            yield Run(name, suite, task, start["init_state"], start["fixtures"], np.stack(executed))


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--suite", default="libero_object")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--replan", type=int, default=4)
    arguments = parser.parse_args()
    runtime.prepare_rendering()
    from foundry_bench.envs.stock import StockLibero
    from foundry_bench.envs.suites import task as find_task

    # All of them before stock LIBERO starts: its OpenGL context would blank ours.
    runs: list[Run] = []
    if arguments.dataset:
        runs += demonstrations(arguments.dataset, arguments.episodes)
    if arguments.checkpoint:
        runs += rollouts(arguments.checkpoint, arguments.suite, arguments.episodes, arguments.replan)
    replayed = succeeded = 0
    for run in runs:
        stock = StockLibero(find_task(run.suite, run.task))
        stock.begin(run.state, run.fixtures, wait_steps=10)
        steps = stock.run(run.actions)
        stock.close()
        replayed += 1
        succeeded += steps is not None
        outcome = "no success" if steps is None else f"success after {steps}"
        where = f"{run.name} of {run.suite} task {run.task}"
        print(f"{where}: {outcome} of {len(run.actions)} steps in stock LIBERO", flush=True)
    print(f"{succeeded} of {replayed} succeed in stock LIBERO")


if __name__ == "__main__":
    main()
