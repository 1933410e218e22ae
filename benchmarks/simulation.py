"""What simulating LIBERO costs: stock LIBERO and ours in one run, and how far ours is from a floor.

    python benchmarks/simulation.py                       # libero_spatial task 0, two 128 px cameras
    python benchmarks/simulation.py --suite libero_10 --task 8 --write docs/performance.md

Each side runs in a process of its own (two OpenGL contexts in one process disturb each other), with one
software-rendering thread. The sides take turns for some rounds; each round repeats the same actions from the
same init state, and each side's best time counts, because the machine may be noisy.

A floor is what MuJoCo alone takes for the same work: the `mj_step` calls with the controls of the real run,
and `mjr_render` with `mjr_readPixels` for the frames.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from foundry_bench import runtime
from foundry_bench.envs.suites import Task, init_states
from foundry_bench.envs.suites import task as find_task

Seconds = dict[str, float]

_CHUNK = 8
_WAIT_STEPS = 10
_SIZE = 128
_LIBERO_CAMERAS = ("agentview", "robot0_eye_in_hand")
_WORKER_REPEATS = 2


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds a call took, and what it returned."""
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def quickest(call: Callable[[], Any], calls: int = 10, blocks: int = 5) -> float:
    """Seconds a call takes on average, in the best of some blocks of calls."""
    return min(timed(lambda: [call() for _ in range(calls)])[0] for _ in range(blocks)) / calls


def random_actions(steps: int) -> np.ndarray:
    """The same actions for every side, float64 of shape (steps, 7): the arm moves, slowly."""
    return np.random.default_rng(0).uniform(-0.3, 0.3, (steps, 7))


def import_simulator() -> None:
    """The imports that both sides would otherwise make while they construct."""
    import libero.libero.envs  # noqa: F401
    import robosuite  # noqa: F401


def stock(what: Task, steps: int, images: int | None) -> Seconds:
    """One round of LIBERO's OffScreenRenderEnv; without ``images`` only ``step`` is of interest."""
    from foundry_bench.envs.libero import LiberoEnv
    from foundry_bench.envs.stock import StockLibero

    def make() -> StockLibero:
        env = StockLibero(what, images)
        draw(env, _LIBERO_CAMERAS[0])
        return env

    def draw(env: StockLibero, camera: str) -> np.ndarray:
        return env.env.env.sim.render(camera_name=camera, width=_SIZE, height=_SIZE)[::-1]

    imports, _ = timed(import_simulator)
    construct, env = timed(make)
    twin = LiberoEnv(what, cameras=(), render_profile="exact")
    fixtures = twin.simulation.problem.sample_fixtures(0)  # where the other sides have them
    states, actions = init_states(what), random_actions(steps)
    env.begin(states[1], fixtures, wait_steps=1)  # what runs for the first time is slower
    begin, _ = timed(lambda: env.begin(states[0], fixtures, wait_steps=_WAIT_STEPS))
    block, _ = timed(lambda: [env.env.step(action) for action in actions])
    frames = [quickest(lambda camera=camera: draw(env, camera)) for camera in _LIBERO_CAMERAS]
    env.close()
    return {
        "imports": imports,
        "construct": construct,
        "begin": begin,
        "step": block / steps,
        "episode": begin + block,
        "frame": float(np.mean(frames)),
    }


def construct_ours(what: Task, profile: str) -> tuple[Seconds, Any]:
    """Our environment, ready to draw, and what making it took."""
    from foundry_bench.envs.libero import LiberoEnv

    def make() -> LiberoEnv:
        env = LiberoEnv(what, image_size=_SIZE, render_profile=profile, max_steps=10**9)
        env.simulation.frame("agentview")  # the renderer is made with the first frame
        return env

    imports, _ = timed(import_simulator)
    construct, env = timed(make)
    return {"imports": imports, "construct": construct}, env


def ours(what: Task, steps: int, profile: str) -> Seconds:
    """One round of our environment, and its floors."""
    found, env = construct_ours(what, profile)
    simulation, actions = env.simulation, random_actions(steps)

    def begin(init_state: int = 0) -> None:
        env.reset(seed=0, options={"init_state": init_state})

    def physics() -> None:
        for action in actions:
            simulation.step(action, observe=False)
            simulation.success()

    def episode() -> None:
        begin()
        for chunk in actions.reshape(-1, _CHUNK, 7):
            env.step_chunk(chunk)

    begin(1)
    found["begin"], _ = timed(begin)
    found["step"] = timed(lambda: [env.step(action) for action in actions])[0] / steps
    frames = [quickest(lambda camera=camera: simulation.frame(camera)) for camera in simulation.cameras]
    found["frame"] = float(np.mean(frames))
    found["episode"], _ = timed(episode)
    begin()
    found["physics"] = timed(physics)[0] / steps
    begin()
    return found | physics_floor(simulation, actions) | frame_floor(simulation) | load_floor(simulation)


def physics_floor(simulation: Any, actions: np.ndarray) -> Seconds:
    """Seconds of a control step's bare ``mj_step`` calls, replaying the controls of a native run from here.

    Also the mean number of contacts in that run: at rest or in free air the floor would lie lower.
    """
    import mujoco

    from foundry_bench.envs.control import LeanLoop

    model, data = simulation.problem.model, simulation.problem.data
    everything = mujoco.mjtState.mjSTATE_INTEGRATION  # the solver's starting point included
    start = np.empty(mujoco.mj_stateSize(model, everything))
    mujoco.mj_getState(model, data, start, everything)
    loop = LeanLoop(model, data, simulation.problem.robot)  # the same steps, with a place between substeps
    apply = loop.control.apply
    controls: list[np.ndarray] = []
    contacts: list[int] = []

    def recorded(action: np.ndarray, new: bool) -> None:
        apply(action, new)
        controls.append(data.ctrl.copy())
        contacts.append(data.ncon)

    loop.control.apply = recorded  # type: ignore[method-assign]
    loop.begin()
    for action in actions:
        loop.step(action)

    def replay() -> None:
        written = data.ctrl
        for values in controls:
            written[:] = values
            mujoco.mj_step(model, data)

    mujoco.mj_setState(model, data, start, everything)
    seconds, _ = timed(replay)
    return {"physics floor": seconds / len(actions), "contacts": float(np.mean(contacts))}


def frame_floor(simulation: Any) -> Seconds:
    """Seconds of drawing a frame and reading it, without updating the scene or turning the image."""
    import mujoco

    renderer = simulation._renderer
    pixels = np.empty((_SIZE, _SIZE, 3), dtype=np.uint8)

    def bare() -> None:
        mujoco.mjr_render(renderer._viewport, renderer._scene, renderer._context)
        mujoco.mjr_readPixels(pixels, None, renderer._viewport, renderer._context)

    found = []
    for camera in simulation.cameras:
        simulation.frame(camera)  # leaves the scene as this camera sees it
        found.append(quickest(bare))
    return {"frame floor": float(np.mean(found))}


def load_floor(simulation: Any) -> Seconds:
    """Seconds of reading the compiled scene from a file and handing it to the graphics side."""
    import mujoco

    def load() -> None:
        model = mujoco.MjModel.from_binary_path(path)
        mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150).free()

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/scene.mjb"
        mujoco.mj_saveModel(simulation.problem.model, path, None)
        return {"load floor": quickest(load, calls=1, blocks=3)}


def episodes_per_minute(arguments: argparse.Namespace, workers: int, cache: str) -> float:
    """Episodes a minute of a pool of evaluation workers under a policy that answers at once."""
    from foundry_bench.envs.workers import WorkerPool

    settings = {
        "cameras": ("agentview", "wrist"),
        "image_size": _SIZE,
        "engine": "native",
        "render_profile": "fast",
        "wait_steps": _WAIT_STEPS,
        "max_steps": {arguments.suite: arguments.steps},
    }
    factory = "foundry_bench.envs.service:EpisodeService"
    with WorkerPool(workers, factory, {"settings": settings}, env={"FOUNDRY_BENCH_CACHE": cache}) as pool:
        run_episodes(pool, arguments, workers)  # each worker makes its simulator with its first episode
        seconds, _ = timed(lambda: run_episodes(pool, arguments, arguments.episodes))
    return 60 * arguments.episodes / seconds


def run_episodes(pool: Any, arguments: argparse.Namespace, count: int) -> None:
    """Run episodes of one task to the end of their budget, shared out evenly among the workers.

    Everything is queued at once: a worker answers in order and, as in an evaluation, never waits for orders.
    """
    for number in range(count):
        worker = number % len(pool)
        where = {"suite": arguments.suite, "task": arguments.task, "init_state": number % 10}
        pool.submit(worker, "start", slot=0, seed=0, **where)
        for chunk in random_actions(arguments.steps).reshape(-1, _CHUNK, 7):
            pool.submit(worker, "advance", slot=0, actions=chunk)
    while events := pool.wait():
        for event in events:
            if event.kind != "result":
                sys.exit(f"an episode ended in an error: {event.error}\n{event.detail}")


SIDES: dict[str, Callable[[Task, int], Seconds]] = {
    "stock": lambda what, steps: stock(what, steps, _SIZE),
    "stock without cameras": lambda what, steps: stock(what, steps, None),
    "exact": lambda what, steps: ours(what, steps, "exact"),
    "fast": lambda what, steps: ours(what, steps, "fast"),
    "construct exact": lambda what, _: construct_ours(what, "exact")[0],
    "construct fast": lambda what, _: construct_ours(what, "fast")[0],
}


def measure(side: str, arguments: argparse.Namespace, cache: str) -> Seconds:
    """Run one round of one side in a process of its own."""
    from foundry_bench.envs.workers import worker_environment

    command = [sys.executable, __file__, "--suite", arguments.suite, "--task", str(arguments.task)]
    command += ["--steps", str(arguments.steps), "--side", side]
    environment = worker_environment({"FOUNDRY_BENCH_CACHE": cache})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def line(name: str, stock: float, ours: float, floor: float | None, bar: float | None = None) -> list[str]:
    """Cells of a line of the table from times in seconds; ``bar`` is the ratio that ours is to reach."""
    ratio = stock / ours
    cells = [name, f"{1000 * stock:.1f}", f"{1000 * ours:.1f}", f"{ratio:.1f}x"]
    cells.append("–" if bar is None else verdict(f"{bar:g}x", ratio >= bar))
    return cells + (["–", "–"] if floor is None else [f"{1000 * floor:.1f}", f"{ours / floor:.2f}x"])


def verdict(bar: str, met: bool) -> str:
    """A bar and whether it was reached."""
    return f"{bar}: {'met' if met else 'missed'}"


def lines(best: dict[str, Seconds], rates: dict[int, float], steps: int) -> list[list[str]]:
    """Cells of all lines, from the best times of each side."""
    base, fast = best["stock"], best["fast"]
    physics = min(best["exact"]["physics floor"], fast["physics floor"])
    blind = best["stock without cameras"]["step"]
    table = [line("physics of a step, nothing drawn", blind, fast["physics"], physics, 3.5)]
    bars = {"exact": {"episode": 8.0}, "fast": {"frame": 12.0, "step": 10.0, "episode": 25.0}}
    for profile, bar in bars.items():
        side = best[profile]
        look = 2 * side["frame floor"]
        floors = {
            "frame": side["frame floor"],
            "step": physics + look,
            "begin": _WAIT_STEPS * physics + look,
            "episode": (_WAIT_STEPS + steps) * physics + (1 + steps // _CHUNK) * look,
        }
        for name, floor in floors.items():
            table.append(line(f"{name}, {profile}", base[name], side[name], floor, bar.get(name)))
        warm = line(f"construct, {profile}", base["construct"], side["construct"], side["load floor"])
        warm[4] = verdict("under 1 s", side["construct"] < 1)
        cold = best[f"construct {profile}"]["construct"]
        table += [warm, line(f"construct with an empty cache, {profile}", base["construct"], cold, None)]
    ratio = rates[2] / rates[1]
    workers = [
        f"{rates[1]:.1f} (one)",
        f"{rates[2]:.1f} (two)",
        f"{ratio:.2f}x",
        verdict("1.8x", ratio >= 1.8),
    ]
    return [*table, ["episodes a minute, one and two workers, fast", *workers, "–", "–"]]


def fragment(arguments: argparse.Namespace, best: dict[str, Seconds], rates: dict[int, float]) -> str:
    """The Markdown that goes into a page."""
    head = ["milliseconds", "stock", "ours", "ratio", "bar", "floor", "ours to floor"]
    cells = [head, ["---", *["---:"] * 6], *lines(best, rates, arguments.steps)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    fast, steps = best["fast"], arguments.steps
    about = (
        f"{arguments.suite} task {arguments.task}, two {_SIZE} px cameras; {machine()}.\nBest of "
        f"{arguments.rounds} rounds ({_WORKER_REPEATS} for workers, one for an empty cache). An episode is "
        f"begin and {steps} steps\nin chunks of {_CHUNK}; stock draws every step. Stock's physics includes "
        "its observables, without cameras.\nConstruct ends with the first frame and leaves out imports "
        f"({fast['imports']:.1f} s). The floor of physics replays\n{steps} steps in motion, "
        f"{fast['contacts']:.0f} contacts on average."
    )
    return f"{about}\n\n{table}"


def machine() -> str:
    """The machine in general terms."""
    from importlib.metadata import version

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{runtime.cores()} cores, {memory:.0f} GiB of memory, MuJoCo {version('mujoco')}"


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what a page holds between ``<!-- begin: name -->`` and ``<!-- end: name -->``."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    section = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    written, count = section.subn(lambda _: f"{begin}\n{text}\n{end}", page.read_text())
    if count != 1:
        sys.exit(f"{page}: holds {count} sections '{begin}' ... '{end}', expected one")
    page.write_text(written)


def main() -> None:
    """Parse the command line, measure, print."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--suite", default="libero_spatial")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--steps", type=int, default=104, help=f"of an episode, a multiple of {_CHUNK}")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts")
    parser.add_argument("--episodes", type=int, default=12, help="that one and two workers run")
    parser.add_argument("--out", type=Path, help="write the table as Markdown to this file")
    parser.add_argument("--write", type=Path, help="put the table into this page")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < _CHUNK or arguments.steps % _CHUNK:
        parser.error(f"--steps {arguments.steps}: must be a positive multiple of {_CHUNK}")
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](find_task(arguments.suite, arguments.task), arguments.steps)))
        return
    with tempfile.TemporaryDirectory() as cache:
        best, rates = run(arguments, cache)
    text = fragment(arguments, best, rates)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if arguments.write:
        write_section(arguments.write, "simulation", text)


def run(arguments: argparse.Namespace, cache: str) -> tuple[dict[str, Seconds], dict[int, float]]:
    """The best times of each side, and the episodes a minute of one and two workers."""
    best: dict[str, Seconds] = {}
    for side in ("construct fast", "construct exact"):  # they find the cache empty; later rounds do not
        best[side] = measure(side, arguments, cache)
    for number in range(arguments.rounds):
        for side in list(SIDES)[:4]:
            print(f"round {number + 1} of {arguments.rounds}: {side}", file=sys.stderr, flush=True)
            found = measure(side, arguments, cache)
            best[side] = {key: min(found[key], best.get(side, found)[key]) for key in found}
    rates = {1: 0.0, 2: 0.0}
    for number in range(_WORKER_REPEATS):
        for workers in rates:
            print(f"workers: {workers}, {number + 1} of {_WORKER_REPEATS}", file=sys.stderr, flush=True)
            rates[workers] = max(rates[workers], episodes_per_minute(arguments, workers, cache))
    return best, rates


if __name__ == "__main__":
    main()
