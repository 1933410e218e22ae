"""The worker pool: order, errors, deaths, hangs, heartbeats, recycling, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from foundry_bench.envs.workers import Event, WorkerPool, beat, worker_environment
from foundry_bench.errors import FoundryError

FAKES = "tests.envs.fake_services"
ECHO = f"{FAKES}:Echo"


def collect(pool: WorkerPool, count: int, limit_s: float = 20.0) -> list[Event]:
    """Wait until ``count`` events came."""
    events: list[Event] = []
    deadline = time.monotonic() + limit_s
    while len(events) < count:
        assert time.monotonic() < deadline, f"only {events}"
        events += pool.wait(timeout_s=1.0)
    return events


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition, limit_s: float = 10.0) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_results_come_in_order_per_worker_and_errors_leave_the_worker_alive() -> None:
    with WorkerPool(2, ECHO, {"label": "x"}) as pool:
        wanted = {0: [], 1: []}
        for value in range(20):
            worker = value % 2
            wanted[worker].append(pool.submit(worker, "echo", value=value))
        bad = pool.submit(0, "boom", message="two\nlines")
        ours = pool.submit(0, "user_error")
        missing = pool.submit(0, "no_such_method")
        odd = pool.submit(0, "unpicklable")
        after = pool.submit(0, "count")
        assert pool.pending(1) == 10
        events = collect(pool, 25)
        for worker, requests in wanted.items():
            got = [event for event in events if event.worker == worker and event.request in requests]
            assert [event.request for event in got] == requests
            assert [event.value for event in got] == list(range(worker, 20, 2))
        by_request = {event.request: event for event in events}
        assert (by_request[bad].kind, by_request[bad].error) == ("error", "RuntimeError: two lines")
        assert "Traceback" in by_request[bad].detail
        assert by_request[ours].error.startswith("FoundryError: suite=libro: unknown suite")
        assert by_request[missing].error.startswith("AttributeError")
        assert by_request[odd].kind == "error"
        assert by_request[after].value == 10
        assert pool.generation(0) == 0
        assert pool.wait(timeout_s=0.1) == []
        assert pool.wait() == []  # nothing pending: nothing to wait for


def test_large_messages_cross_in_both_directions_without_blocking() -> None:
    image = np.arange(2_000_000, dtype=np.uint8)
    with WorkerPool(1, ECHO) as pool:
        for _ in range(12):
            pool.submit(0, "echo", value=image)
        events = collect(pool, 12)
    assert all(np.array_equal(event.value, image) for event in events)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_dead_worker_is_replaced_and_its_queue_comes_back(how: str) -> None:
    with WorkerPool(2, ECHO) as pool:
        pool.submit(0, "echo", value=1)
        pool.submit(1, "echo", value=1)
        collect(pool, 2)
        first = pool.submit(0, "leave", code=7) if how == "exit" else pool.submit(0, "sleep", seconds=60)
        second = pool.submit(0, "echo", value=2)
        if how == "kill":
            os.kill(pool.pid(0), signal.SIGKILL)
        events = collect(pool, 2)
        assert [(event.request, event.kind) for event in events] == [(first, "died"), (second, "died")]
        assert events[0].error == ("exited with code 7" if how == "exit" else "killed by signal 9")
        if how == "exit":
            assert events[0].detail == "last words"
        assert (pool.generation(0), pool.generation(1)) == (1, 0)
        pool.submit(0, "count")
        pool.submit(1, "count")
        assert sorted((event.worker, event.value) for event in collect(pool, 2)) == [(0, 0), (1, 1)]


def test_a_worker_killed_while_idle_is_replaced() -> None:
    with WorkerPool(1, ECHO) as pool:
        pool.submit(0, "echo", value=1)
        collect(pool, 1)
        os.kill(pool.pid(0), signal.SIGKILL)
        assert wait_for(lambda: pool.wait(timeout_s=0.05) == [] and pool.generation(0) == 1)
        pool.submit(0, "echo", value=2)
        assert collect(pool, 1)[0].value == 2


def test_a_hung_worker_is_killed_and_a_beating_one_is_not() -> None:
    with WorkerPool(2, ECHO, timeout_s=1.2) as pool:
        pool.submit(0, "sleep", seconds=60)
        pool.submit(1, "sleep", seconds=3.0, beating=True)
        pid = pool.pid(0)
        events = collect(pool, 2)
    assert [(event.worker, event.kind) for event in events] == [(0, "died"), (1, "result")]
    assert events[0].error == "no progress for 1.2 s"
    assert not alive(pid)


def test_a_busy_parent_does_not_take_its_own_absence_for_a_hang() -> None:
    with WorkerPool(1, ECHO, timeout_s=0.5) as pool:
        pool.submit(0, "echo", value=0)
        collect(pool, 1)
        pool.submit(0, "echo", value=1)
        time.sleep(1.0)
        assert collect(pool, 1)[0].kind == "result"


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("raises_at_start", ["OSError: no EGL device", "doctor"]),
        ("exits_at_start", ["exited with code 3", "libEGL warning"]),
        ("hangs_at_start", ["no progress for 1.5 s"]),
        ("user_error_at_start", ["MUJOCO_GL=egl: no EGL library; install libegl1"]),
        ("not_there", ["AttributeError"]),
    ],
)
def test_a_factory_that_cannot_start_raises_with_the_cause(factory: str, words: list[str]) -> None:
    with WorkerPool(1, f"{FAKES}:{factory}", start_timeout_s=1.5 if "hangs" in factory else 60.0) as pool:
        pool.submit(0, "echo", value=1)
        with pytest.raises(FoundryError) as caught:
            collect(pool, 1)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_requests_survive_a_worker_killed_while_it_starts() -> None:
    with WorkerPool(1, ECHO) as pool:
        pool.submit(0, "echo", value="kept")
        for generation in range(3):
            os.kill(pool.pid(0), signal.SIGKILL)
            assert wait_for(lambda: pool.wait(timeout_s=0.01) == [] and pool.generation(0) > generation)  # noqa: B023
        assert collect(pool, 1)[0].value == "kept"


def test_requests_survive_one_failed_start(tmp_path: Path) -> None:
    with WorkerPool(1, f"{FAKES}:fails_once", {"marker": str(tmp_path / "started")}) as pool:
        pool.submit(0, "echo", value="kept")
        assert collect(pool, 1)[0].value == "kept"


def test_recycling_on_request_and_after_a_number_of_requests() -> None:
    with WorkerPool(1, ECHO, recycle_after=3) as pool:
        for _ in range(7):
            pool.submit(0, "echo", value=pool.pid(0))
        pool.submit(0, "count")
        events = collect(pool, 8)
        assert [event.kind for event in events] == ["result"] * 8
        assert events[-1].value == 1  # the third process, after one echo
        assert pool.generation(0) == 2
    with WorkerPool(1, ECHO) as pool:
        pool.submit(0, "echo", value=1)
        with pytest.raises(ValueError, match="pending"):
            pool.recycle(0)
        collect(pool, 1)
        pid = pool.pid(0)
        assert pool.completed(0) == 1
        pool.recycle(0)
        assert not alive(pid)
        pool.submit(0, "count")
        assert collect(pool, 1)[0].value == 0


def test_environment_is_set_before_anything_and_nothing_heavy_is_imported(monkeypatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    with WorkerPool(1, ECHO, env={"FOUNDRY_TEST": "1"}) as pool:
        pool.submit(0, "environment", keys=["LP_NUM_THREADS", "OMP_NUM_THREADS", "MUJOCO_GL", "FOUNDRY_TEST"])
        pool.submit(0, "modules")
        first, second = collect(pool, 2)
    assert first.value == {
        "LP_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MUJOCO_GL": "egl",
        "FOUNDRY_TEST": "1",
    }
    assert not {"torch", "mujoco", "numpy", "pytest"} & set(second.value)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert worker_environment()["PYOPENGL_PLATFORM"] == "osmesa"
    assert worker_environment({"MUJOCO_GL": "glfw"})["MUJOCO_GL"] == "glfw"


def test_close_is_quick_when_busy_and_final() -> None:
    pool = WorkerPool(2, ECHO)
    pool.submit(0, "sleep", seconds=60)
    pool.submit(1, "echo", value=1)
    collect(pool, 1)
    pids = [pool.pid(0), pool.pid(1)]
    begun = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - begun < 4.0
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(ValueError, match="closed"):
        pool.submit(0, "echo", value=1)
    with pytest.raises(FoundryError, match="workers=0"):
        WorkerPool(0, ECHO)


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("in_thread", [True, False])
def test_children_do_not_outlive_a_killed_parent(tmp_path: Path, busy: bool, in_thread: bool) -> None:
    pid_file = tmp_path / "pid"
    script = textwrap.dedent(
        f"""
        import threading, time
        from foundry_bench.envs.workers import WorkerPool
        def run():
            pool = WorkerPool(1, {ECHO!r})
            pool.submit(0, "sleep", seconds={60 if busy else 0}, pid_file={str(pid_file)!r})
            if not {busy}:
                pool.wait()
            print(pool.pid(0), flush=True)
            pool.wait(60); time.sleep(60)
        if {in_thread}:
            threading.Thread(target=run).start()
        else:
            run()
        """
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE) as parent:
        assert wait_for(lambda: pid_file.exists() and pid_file.read_text(), 20.0)
        child = int(pid_file.read_text())
        assert alive(child)
        parent.kill()
        assert wait_for(lambda: not alive(child), 5.0)


def test_children_ignore_ctrl_c() -> None:
    with WorkerPool(1, ECHO) as pool:
        pool.submit(0, "echo", value=1)
        collect(pool, 1)
        pool.submit(0, "sleep", seconds=0.5)
        os.kill(pool.pid(0), signal.SIGINT)
        assert collect(pool, 1)[0].kind == "result"


def test_beat_outside_of_a_worker_does_nothing() -> None:
    beat()
