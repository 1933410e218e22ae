"""MuJoCo's functions called from compiled code, and what happens when they fail."""

from __future__ import annotations

import ctypes

import mujoco
import numba
import numpy as np
import pytest

from foundry_bench.envs.guarded_calls import FIRST, addresses, call, failure
from foundry_bench.envs.mujoco_library import library

_BALL = "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"


@numba.njit
def _step(table: np.ndarray, model: int, data: int) -> bool:
    return call(table, FIRST, (model, data))


@numba.njit
def _fail(table: np.ndarray, text: int) -> bool:
    return call(table, FIRST, (text,))


def test_a_call_does_what_the_binding_does() -> None:
    model = mujoco.MjModel.from_xml_string(_BALL)
    ours, theirs = mujoco.MjData(model), mujoco.MjData(model)
    for _ in range(20):
        assert _step(addresses(("mj_step",)), model._address, ours._address)
        mujoco.mj_step(model, theirs)
    np.testing.assert_array_equal(ours.qpos, theirs.qpos)
    assert ours.qpos[2] < 0


def test_an_error_of_mujoco_comes_back_with_its_text() -> None:
    table = addresses(("mju_error",))
    handler = library()._mjPRIVATE__get_tls_error_fn
    handler.restype = ctypes.c_void_p
    for number in range(1000):
        text = ctypes.create_string_buffer(f"broken {number}".encode())
        assert not _fail(table, ctypes.addressof(text))
        assert failure() == f"broken {number}"
    assert handler() is None  # nobody is left who would jump into a frame that is gone
    text = ctypes.create_string_buffer(b"x" * 5000)
    assert not _fail(table, ctypes.addressof(text))
    assert 1000 < len(failure()) < 1024


def test_a_full_stack_does_not_end_the_process() -> None:
    balls = "<body pos='0 0 {}'><freejoint/><geom size='.1'/></body>"
    world = "".join(balls.format(0.01 * number) for number in range(60))
    text = f"<mujoco><size memory='40K'/><worldbody>{world}</worldbody></mujoco>"
    model = mujoco.MjModel.from_xml_string(text)
    data = mujoco.MjData(model)
    assert not _step(addresses(("mj_step",)), model._address, data._address)
    assert "out of memory" in failure()
    with pytest.raises(mujoco.FatalError, match="out of memory"):
        mujoco.mj_step(model, data)


def test_an_unknown_function_is_an_error_before_any_call() -> None:
    with pytest.raises(AttributeError):
        addresses(("mj_stepp",))
