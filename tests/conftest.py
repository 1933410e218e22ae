"""Shared by all tests: headless rendering, and a folder of its own for what a test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry_bench import runtime

runtime.prepare_rendering()  # before any test module imports MuJoCo

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(autouse=True)
def _no_suites_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration makes users' suites known to the whole process; the next test knows none."""
    monkeypatch.setenv("FOUNDRY_BENCH_SUITES", "")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: what commands write to ``results`` lands there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
