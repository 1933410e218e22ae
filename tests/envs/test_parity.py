"""Recorded action sequences on tasks of every suite: native against robosuite's stepping and stock LIBERO.

The table in docs/performance.md comes from the same code, against stock alone.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    """benchmarks/parity.py, importable in child processes as well."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))
    assert importlib.util.find_spec("parity") is not None
    return importlib.import_module("parity")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_sequences_end_in_the_same_bits(parity: ModuleType) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = [pool.submit(parity.compare, suite, index, 5, "robosuite") for suite, index in parity.TASKS]
        outcomes = [outcome for job in jobs for outcome in job.result()]
    assert len(outcomes) == 100
    assert {outcome.kind for outcome in outcomes} == {"expert", "random"}
    assert any(outcome.success[0] for outcome in outcomes)
    for outcome in outcomes:
        np.testing.assert_array_equal(outcome.hand, 0.0)
        np.testing.assert_array_equal(outcome.things, 0.0)
        assert outcome.same_start == 0.0
        assert outcome.success[0] == outcome.success[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stock_ends_in_the_same_bits_from_the_same_solver_start(parity: ModuleType) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        outcomes = [
            outcome
            for suite, index in (("libero_spatial", 2), ("libero_10", 5))
            for outcome in pool.submit(parity.compare, suite, index, 2).result()
        ]
    for outcome in outcomes:
        assert outcome.same_start == 0.0
        assert np.median(outcome.hand) < 1e-9


def test_the_table_counts_what_it_is_given(parity: ModuleType) -> None:
    same = parity.Outcome("a", 0, "random", 2, np.zeros(2), np.zeros(2), 0.0, (0, 0))
    late = parity.Outcome("a", 1, "random", 2, np.array([0.0, 2e-3]), np.zeros(2), 0.0, (2, 0))
    text = parity.table([same, late])
    assert "| all | 2 | all | 1.0e-03, 2.0e-03 | 0.0e+00, 0.0e+00 | 0.0e+00 | 1/2 | 1/2 |" in text
    assert "success at step 2 here and 0 in stock" in text
    assert "a millimetre apart from step 2 on" in text
