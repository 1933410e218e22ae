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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: what commands write to ``results`` lands there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
