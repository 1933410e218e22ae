"""The same action sequences through our native engine and through stock LIBERO, state by state.

    python benchmarks/parity.py                        # 100 sequences on 20 tasks, some 10 minutes
    python benchmarks/parity.py --tasks 2 --sequences 2
    python benchmarks/parity.py --write docs/performance.md

For each task, sequences of the scripted expert (where there is one, until it succeeds) and of random actions
(100 steps, rotations left out of a third of them), each from an official init state, ten settling steps
first. Stock is LIBERO's `OffScreenRenderEnv`: reset, the same fixture poses, `set_init_state`; robosuite's
own tasks are compared with robosuite's own stepping.

Each sequence is run twice. `as is`: each side begins as it does. `same solver start`: the contact solver's
warm start is copied from stock at the init state. Stock's is left over from the placement that its reset has
drawn before the init state is set, so it depends on how many resets came before; ours does not. It is the
only thing in which the two begin differently, which the second run shows: if there is nothing else, all its
differences are zero.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from simulation import write_section  # beside this script

from foundry_bench import runtime

TASKS = (
    *(("libero_spatial", 2), ("libero_spatial", 5), ("libero_object", 0), ("libero_object", 6)),
    *(("libero_goal", 1), ("libero_goal", 9), ("libero_10", 5), ("libero_10", 8)),
    *(("libero_90", 0), ("libero_90", 21), ("libero_90", 47), ("libero_90", 80)),
    *(("libero_spatial_lan", 0), ("libero_object_object", 3), ("libero_goal_swap", 2), ("libero_10_task", 4)),
    *(("robosuite", 0), ("robosuite", 3), ("robosuite_ur5e", 1), ("robosuite_iiwa", 4)),
)
RANDOM_STEPS = 100
EXPERT_STEPS = 300
WAIT_STEPS = 10


@dataclass(frozen=True)
class Outcome:
    """One sequence under both engines.

    Attributes:
        suite, task, kind, steps: what was run; kind is ``expert`` or ``random``.
        hand: distance of the end effectors after each step, metres, (steps,), as is.
        things: largest difference of any other joint coordinate after each step, (steps,), as is.
        same_start: largest difference of any number of the state in the run with the same solver start.
        success: step of first success on both sides, 0 for never, as is.
    """

    suite: str
    task: int
    kind: str
    steps: int
    hand: np.ndarray
    things: np.ndarray
    same_start: float
    success: tuple[int, int]


def actions_of(simulation: Any, kind: str, init_state: int) -> np.ndarray:
    """The actions of a sequence, (n, 7)."""
    if kind == "random":
        generator = np.random.default_rng(init_state)
        actions = generator.uniform(-1, 1, (RANDOM_STEPS, simulation.action_dim))
        actions[:, 3:6] *= generator.random((RANDOM_STEPS, 1)) < 0.67
        return actions
    from foundry_bench.envs.experts.expert import Expert

    simulation.start(init_state, 7)
    simulation.wait(WAIT_STEPS)
    expert = Expert(simulation)
    taken: list[np.ndarray] = []
    while len(taken) < EXPERT_STEPS and not simulation.success():
        action = expert.act()
        if action is None:
            break
        taken.append(action)
        simulation.step(action, observe=False)
    return np.stack(taken)


def run_ours(
    simulation: Any, actions: np.ndarray, init_state: int, warm_start: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """States (n, size), end-effector positions (n, 3) and the step of the first success."""
    simulation.start(init_state, 7)
    if warm_start is not None:
        simulation.problem.data.qacc_warmstart[:] = warm_start
    for _ in range(WAIT_STEPS):
        simulation.step(simulation.rest_action, observe=False)
    states, hands, solved = [], [], 0
    for number, action in enumerate(actions, 1):
        simulation.step(action, observe=False)
        states.append(simulation.problem.state())
        hands.append(simulation.problem.data.site_xpos[simulation.problem.robot.eef_site_id].copy())
        solved = solved or number * simulation.success()
    return np.stack(states), np.stack(hands), int(solved)


def run_stock(
    stock: Any, simulation: Any, actions: np.ndarray, init_state: int
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """The same in stock LIBERO, and the solver's warm start at the init state."""
    from foundry_bench.envs.simulation import WAIT_ACTION
    from foundry_bench.envs.starts import start_of

    stock.begin(*start_of(simulation.problem, init_state, 7), wait_steps=0, seed=7)
    data, site = stock.env.env.sim.data._data, stock.env.env.robots[0].eef_site_id
    warm_start = data.qacc_warmstart.copy()
    for _ in range(WAIT_STEPS):
        stock.env.step(WAIT_ACTION)
    states, hands, solved = [], [], 0
    for number, action in enumerate(actions, 1):
        _, _, done, _ = stock.env.step(action)
        stock.env.env.done = False  # stock refuses to go on after success; we want the whole way
        states.append(np.concatenate([[data.time], data.qpos, data.qvel]))
        hands.append(data.site_xpos[site].copy())
        solved = solved or number * bool(done)
    return np.stack(states), np.stack(hands), int(solved), warm_start


def compare(suite: str, index: int, sequences: int, engine: str = "stock") -> list[Outcome]:
    """All sequences of a task; with ``engine="robosuite"`` against robosuite's stepping of our scene."""
    runtime.prepare_rendering()
    from foundry_bench.envs.experts.planner import make_plan
    from foundry_bench.envs.simulation import Simulation
    from foundry_bench.envs.stock import StockLibero
    from foundry_bench.envs.suites import task

    what = task(suite, index)
    ours = Simulation(what, (), 64, "native", "fast")
    libero = what.bddl is not None and engine == "stock"
    stock = StockLibero(what) if libero else Simulation(what, (), 64, "robosuite", "fast")
    has_expert = not make_plan(ours.problem).reason
    outcomes = []
    for number in range(sequences):
        kind = "expert" if has_expert and number % 2 == 0 else "random"
        actions = actions_of(ours, kind, number)
        if libero:
            *theirs, warm_start = run_stock(stock, ours, actions, number)
        else:
            theirs, warm_start = list(run_ours(stock, actions, number, None)), None
        mine = run_ours(ours, actions, number, None)
        same = run_ours(ours, actions, number, warm_start)
        gap = np.abs(mine[0] - theirs[0])
        arm = [1 + joint for joint in ours.problem.robot._ref_joint_pos_indexes]
        others = np.setdiff1d(np.arange(1, 1 + ours.problem.model.nq), arm)
        outcomes.append(
            Outcome(
                suite,
                index,
                kind,
                len(actions),
                np.linalg.norm(mine[1] - theirs[1], axis=1),
                gap[:, others].max(axis=1),
                float(np.abs(same[0] - theirs[0]).max()),
                (mine[2], theirs[2]),
            )
        )
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """A row for each suite and kind, then a line for each disagreement."""
    lines = [
        "| suite | sequences | kind | end effector after the last step: median, worst (m) | "
        "objects: median, worst | same solver start: worst | outcomes agree | same step |",
        "| --- | ---: | --- | --- | --- | ---: | ---: | ---: |",
    ]
    groups = sorted({(outcome.suite, outcome.kind) for outcome in outcomes})
    for suite, kind in [*groups, ("all", "all")]:
        some = [o for o in outcomes if suite == "all" or (o.suite, o.kind) == (suite, kind)]
        hand, things = ([getattr(o, name)[-1] for o in some] for name in ("hand", "things"))
        agree = sum(bool(o.success[0]) == bool(o.success[1]) for o in some)
        step = sum(o.success[0] == o.success[1] for o in some)
        lines.append(
            f"| {suite} | {len(some)} | {kind} | {np.median(hand):.1e}, {max(hand):.1e} | "
            f"{np.median(things):.1e}, {max(things):.1e} | {max(o.same_start for o in some):.1e} | "
            f"{agree}/{len(some)} | {step}/{len(some)} |"
        )
    for o in outcomes:
        if o.success[0] != o.success[1]:
            lines.append(
                f"\n{o.suite} task {o.task}, {o.kind}: success at step {o.success[0]} here and "
                f"{o.success[1]} in stock (0: never); a millimetre apart from step {_apart(o)} on."
            )
    return "\n".join(lines)


def _apart(outcome: Outcome) -> int | str:
    far = np.flatnonzero(np.maximum(outcome.hand, outcome.things) > 1e-3)
    return int(far[0]) + 1 if len(far) else "none"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=len(TASKS), help="how many of the tasks")
    parser.add_argument("--sequences", type=int, default=5, help="of each task")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", type=Path, help="page between whose parity marks the table goes")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    chosen = TASKS[: arguments.tasks]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, context, max_tasks_per_child=1) as pool:
        jobs = [pool.submit(compare, suite, index, arguments.sequences) for suite, index in chosen]
        for number, job in enumerate(as_completed(jobs), 1):
            outcomes += job.result()
            print(f"{number}/{len(jobs)} tasks", file=sys.stderr, flush=True)
    outcomes.sort(key=lambda outcome: (outcome.suite, outcome.task))
    text = table(outcomes)
    print(text)
    if arguments.write:
        write_section(arguments.write, "parity", text)


if __name__ == "__main__":
    main()
