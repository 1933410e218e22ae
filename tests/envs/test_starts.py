"""Where episodes start, and that `legacy` is where they start in stock LIBERO."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from foundry_bench.envs.starts import start_of
from foundry_bench.envs.suites import task
from foundry_bench.errors import FoundryError
from tests.envs.conftest import MakeSimulation

_TASK = ("libero_goal", 9)


def _stock_fixtures(seed: int, resets: int) -> list[dict[str, list[float]]]:
    """Poses of the fixtures after each reset of stock LIBERO, seeded once."""
    from libero.libero.envs import OffScreenRenderEnv

    with contextlib.redirect_stdout(io.StringIO()):
        env = OffScreenRenderEnv(bddl_file_name=str(task(*_TASK).bddl), use_camera_obs=False)
        env.seed(seed)
        seen = []
        for _ in range(resets):
            env.reset()
            model = env.env.sim.model._model
            bodies = {name: model.body(fixture.root_body) for name, fixture in env.env.fixtures_dict.items()}
            seen.append({name: [*body.pos, *body.quat] for name, body in bodies.items()})
        env.close()
    return seen


@pytest.mark.slow
def test_legacy_fixtures_stand_where_stock_puts_them(simulation: MakeSimulation) -> None:
    problem = simulation(*_TASK).problem
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        stock = pool.submit(_stock_fixtures, 7, 3).result()
    for init_state, expected in enumerate(stock):
        _, fixtures = start_of(problem, init_state, 7, "legacy")
        assert fixtures
        for name, pose in fixtures.items():
            np.testing.assert_array_equal(pose, expected[name])


def test_legacy_fixtures_are_a_function_of_seed_and_index(simulation: MakeSimulation) -> None:
    problem = simulation(*_TASK).problem
    third = start_of(problem, 2, 7, "legacy")[1]
    assert start_of(problem, 0, 7, "legacy")[1] != third
    assert start_of(problem, 2, 8, "legacy")[1] != third
    problem._legacy.clear()  # as on another worker, which has not seen the episodes before
    assert start_of(problem, 30, 7, "legacy")[1] != third
    assert start_of(problem, 2, 7, "legacy")[1] == third


def test_strict_and_legacy_share_the_init_state(simulation: MakeSimulation) -> None:
    problem = simulation(*_TASK).problem
    strict, legacy = (start_of(problem, 1, 7, mode) for mode in ("strict", "legacy"))
    np.testing.assert_array_equal(strict[0], legacy[0])
    assert strict[1].keys() == legacy[1].keys()
    assert strict[1] != legacy[1]


def test_bad_names_are_refused(simulation: MakeSimulation) -> None:
    problem = simulation(*_TASK).problem
    with pytest.raises(FoundryError, match="did you mean 'legacy'"):
        start_of(problem, 0, 7, "legcy")
    with pytest.raises(FoundryError, match="0 to 49"):
        start_of(problem, 50, 7)
