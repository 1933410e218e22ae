"""The evaluation loop on a pretend simulator: same records whatever happens to the machinery."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from foundry_bench.errors import FoundryError
from foundry_bench.evaluation import EpisodeRecord, Machinery, Protocol, evaluate, read_records
from foundry_bench.evaluation.expert import find_policy
from tests.evaluation.fakes import IMAGE_SIZE, SERVICE, BrokenPolicy, PointPolicy, tasks

PROTOCOL = Protocol(name="point", image_size=IMAGE_SIZE, max_steps={"libero_spatial": 40}, versions={})
MACHINERY = [entry.name for entry in fields(Machinery)]


def run(out: Path, policy: Any = None, count: int = 3, **changes: Any) -> list[EpisodeRecord]:
    env = {"POINT_FAULTS": changes.pop("faults", ""), "POINT_DELAY": str(changes.pop("delay", 0))}
    inside = {key: changes.pop(key) for key in list(changes) if key in MACHINERY}
    options: dict[str, Any] = {
        "episodes": 4,
        "workers": 1,
        "progress": False,
        "run": "test",
        "machinery": Machinery(**{"service": SERVICE, "env": env, **inside}),
    }
    chosen = changes.pop("tasks", None) or tasks(count)
    return evaluate(
        policy or PointPolicy(confused=("go to goal 2",)),
        chosen,
        changes.pop("protocol", PROTOCOL),
        out,
        **{**options, **changes},
    )


def stable(records: list[EpisodeRecord]) -> list[dict[str, Any]]:
    return [record.stable() for record in records]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[EpisodeRecord]:
    return run(tmp_path_factory.mktemp("reference"), slots_per_worker=1)


def test_records_say_what_happened(reference: list[EpisodeRecord], tmp_path: Path) -> None:
    assert [record.key for record in reference] == [
        ("libero_spatial", task, init, 7) for task in range(3) for init in range(4)
    ]
    assert [record.outcome for record in reference] == ["success"] * 8 + ["failure"] * 4
    first, last = reference[0], reference[-1]
    assert (first.policy, first.checkpoint_hash, first.run) == ("point", "abc123", "test")
    assert (first.protocol, first.protocol_hash) == ("point", PROTOCOL.hash)
    assert last.steps == 40
    assert last.chunks == 10
    assert last.simulated_seconds == 2.0
    assert last.simulator_seconds == 0.01
    assert last.wall_seconds > 0
    assert set(first.versions) == {"mujoco", "robosuite", "libero", "numpy", "torch"}
    assert first.instruction == "go to goal 0"
    assert 0 < first.steps < 40


@pytest.mark.parametrize(
    ("workers", "slots", "batch", "recycle"), [(1, 3, 16, 400), (2, 1, 16, 2), (2, 3, 2, 3), (3, 2, 1, 400)]
)
def test_workers_slots_batches_and_recycling_change_nothing(
    reference: list[EpisodeRecord], tmp_path: Path, workers: int, slots: int, batch: int, recycle: int
) -> None:
    shuffled = tasks(3)
    random.Random(slots).shuffle(shuffled)
    policy = PointPolicy(confused=("go to goal 2",))
    records = run(
        tmp_path,
        policy,
        tasks=shuffled,
        workers=workers,
        slots_per_worker=slots,
        max_batch=batch,
        recycle_after=recycle,
    )
    assert stable(sorted(records, key=lambda record: record.key)) == stable(reference)
    assert max(policy.batches) <= batch
    assert stable(sorted(read_records(tmp_path / "records.jsonl"), key=lambda r: r.key)) == stable(reference)


def test_observations_are_batched(tmp_path: Path) -> None:
    policy = PointPolicy()
    run(tmp_path, policy, workers=1, slots_per_worker=4)
    assert max(policy.batches) == 4
    assert sum(policy.batches) / len(policy.batches) > 2


def test_resume_runs_only_what_is_missing(reference: list[EpisodeRecord], tmp_path: Path) -> None:
    run(tmp_path, episodes=2)
    policy = PointPolicy(confused=("go to goal 2",))
    seen: list[EpisodeRecord] = []
    records = run(tmp_path, policy, on_record=seen.append)
    assert stable(records) == stable(reference)
    assert len(seen) == 6
    policy.batches.clear()
    assert stable(run(tmp_path, policy, service="no.such.module:at_all")) == stable(reference)
    assert policy.batches == []  # nothing left to do, nothing started
    run(tmp_path, resume=False, episodes=1)
    assert len(read_records(tmp_path / "records.jsonl.1")) == 12
    assert len(read_records(tmp_path / "records.jsonl")) == 3


@pytest.mark.parametrize("kind", ["crash", "hang", "raise"])
@pytest.mark.parametrize("moment", ["start", "middle"])
def test_an_episode_that_breaks_once_is_run_again(
    reference: list[EpisodeRecord], tmp_path: Path, kind: str, moment: str
) -> None:
    faults = f"libero_spatial-1-2={kind}@{moment}@{tmp_path / 'broke'}"
    records = run(tmp_path, workers=2, slots_per_worker=2, faults=faults, timeout_s=1.5)
    assert stable(records) == stable(reference)
    assert (tmp_path / "broke").exists()
    assert records[6].attempts == 2


@pytest.mark.parametrize(
    ("kind", "cause", "attempts"),
    [
        ("crash", "worker exited with code 3", 3),
        ("hang", "worker no progress for 1 s", 3),
        ("raise", "ValueError: bad contact in libero_spatial-1-2", 3),
        ("refuse", "FoundryError: libero_spatial-1-2: no such init state", 1),
    ],
)
def test_an_episode_that_always_breaks_is_an_error_and_hurts_no_other(
    reference: list[EpisodeRecord], tmp_path: Path, kind: str, cause: str, attempts: int
) -> None:
    faults = f"libero_spatial-1-2={kind}@middle"
    records = run(tmp_path, workers=1, slots_per_worker=4, faults=faults, timeout_s=1.0)
    broken = records.pop(6)
    assert (broken.outcome, broken.attempts, broken.finished) == ("error", attempts, False)
    assert broken.error.startswith(cause)
    assert stable(records) == stable([each for each in reference if each.key != broken.key])
    assert stable(run(tmp_path)) == stable(reference)  # errors are run again on resume
    assert len(read_records(tmp_path / "records.jsonl")) == 13  # and nothing was rewritten


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("raise", "policy raised RuntimeError: out of memory"),
        ("nan", "policy returned NaN or infinite actions"),
        ("shape", "policy returned shape (1, 8, 6) instead of (1, 8, 7)"),
        ("text", "policy returned shape () instead of (1, 8, 7)"),
    ],
)
def test_a_policy_that_breaks_costs_only_those_episodes(
    reference: list[EpisodeRecord], tmp_path: Path, how: str, cause: str
) -> None:
    policy = BrokenPolicy(confused=("go to goal 2",), how=how)
    records = run(tmp_path, policy, workers=2, slots_per_worker=3)
    assert stable(records[:4] + records[8:]) == stable(reference[:4] + reference[8:])
    assert {(record.outcome, record.error) for record in records[4:8]} == {("error", cause)}


def test_a_policy_that_raises_once_is_asked_again(reference: list[EpisodeRecord], tmp_path: Path) -> None:
    policy = BrokenPolicy(confused=("go to goal 2",), how="once")
    assert stable(run(tmp_path, policy, slots_per_worker=1)) == stable(reference)


@pytest.mark.parametrize(("count", "episodes", "ended"), [(3, 4, 10), (1, 2, 2)])
def test_when_everything_is_an_error_it_stops_early(
    tmp_path: Path, count: int, episodes: int, ended: int
) -> None:
    policy = BrokenPolicy(how="raise", where="*")
    with pytest.raises(FoundryError, match=f"first {ended} episodes .* policy raised Runtime") as caught:
        run(tmp_path, policy, count=count, episodes=episodes, slots_per_worker=1)
    assert "\n" not in str(caught.value)
    assert len(read_records(tmp_path / "records.jsonl")) == ended


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 64}, "image_size 64 against 8"),
        ({"cameras": ("agentview", "front")}, "cameras agentview, front against agentview, wrist"),
        ({"action_dim": 8}, "action_dim 8 against 7"),
        ({"state_convention": "quaternion"}, "state_convention quaternion against eef_pos"),
        ({"horizon": 2}, "chunks of 2 actions against replan 4"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(FoundryError, match="does not fit protocol 'point'") as caught:
        run(tmp_path, PointPolicy().with_spec(**changes), service="no.such.module:at_all")
    assert words in str(caught.value)
    assert not (tmp_path / "records.jsonl").exists()


def test_a_policy_without_cameras_fits_any_image_size(tmp_path: Path) -> None:
    from foundry_bench.policies.base import ZeroPolicy

    records = run(tmp_path, ZeroPolicy(), count=1, episodes=2)
    assert [record.outcome for record in records] == ["failure"] * 2


def test_a_folder_with_another_evaluation_is_refused(tmp_path: Path) -> None:
    run(tmp_path, count=1, episodes=1)
    other = Protocol(
        name="point", image_size=IMAGE_SIZE, replan=3, max_steps={"libero_spatial": 40}, versions={}
    )
    with pytest.raises(FoundryError, match=f"point@{PROTOCOL.hash}; this is .*point@{other.hash}: use"):
        run(tmp_path, protocol=other)
    with pytest.raises(FoundryError, match="retrained@abc123"):
        run(tmp_path, policy_name="retrained")


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"eval\.episodes=0"):
        run(tmp_path, episodes=0)
    with pytest.raises(FoundryError, match="workers=0"):
        run(tmp_path, workers=0)
    with pytest.raises(FoundryError, match="no budget for suite 'robosuite'"):
        run(tmp_path, tasks=tasks(1, "robosuite"))
    with pytest.raises(FoundryError, match="listed twice"):
        run(tmp_path, tasks=tasks(1) + tasks(1))
    with pytest.raises(FoundryError, match=r"no\.such\.module:at_all: ModuleNotFoundError"):
        run(tmp_path, service="no.such.module:at_all")


def test_videos_are_named_by_outcome_and_do_not_depend_on_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        out = tmp_path / str(workers)
        (out / "videos").mkdir(parents=True)
        (out / "videos" / "unfinished-left-over.mp4").touch()
        faults = f"libero_spatial-0-1=crash@middle@{out / 'broke'}"
        records = run(out, videos=2, workers=workers, faults=faults)
        assert [record.video for record in records if record.init_state < 2] == [
            f"videos/libero_spatial-{task:02d}-{init:03d}-{'failure' if task == 2 else 'success'}.mp4"
            for task in range(3)
            for init in range(2)
        ]
        assert {record.video for record in records if record.init_state >= 2} == {None}
        files = sorted(path.name for path in (out / "videos").iterdir())
        assert files == sorted(Path(record.video).name for record in records if record.video)


SCRIPT = """
    import signal
    import sys
    from pathlib import Path
    from tests.evaluation.fakes import PointPolicy
    from tests.evaluation.test_runner import run
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    run(Path(sys.argv[1]), PointPolicy(confused=("go to goal 2",)), workers=2, slots_per_worker=2, delay=0.1)
"""


def start_runner(out: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(out)], env=env, stderr=subprocess.DEVNULL
    )


def lines(out: Path) -> int:
    path = out / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_runner_resumes_to_the_same_records(
    reference: list[EpisodeRecord], tmp_path: Path, how: signal.Signals
) -> None:
    with start_runner(tmp_path) as process:
        while lines(tmp_path) < 4:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(how)
    before = lines(tmp_path)
    assert 4 <= before < 12
    if how is signal.SIGKILL:  # and as if it had been in the middle of a line
        with (tmp_path / "records.jsonl").open("ab") as file:
            file.write(b'{"run":"test","poli')
        with pytest.warns(UserWarning, match="torn"):
            records = run(tmp_path)
    else:
        records = run(tmp_path)
    assert stable(records) == stable(reference)
    assert lines(tmp_path) == 12


def worker_pids() -> list[int]:
    """Worker processes of this process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == os.getpid() and b"foundry-bench-worker" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def test_workers_killed_at_random_moments_change_nothing(tmp_path: Path) -> None:
    calm = run(tmp_path / "calm", workers=2, episodes=8)
    finished = threading.Event()
    kills: list[int] = []

    def kill_now_and_then() -> None:
        generator = random.Random(0)
        while not finished.wait(generator.uniform(0.0, 0.1)):
            pids = worker_pids()
            # Between two kills something must get done: an episode that is hit three times is an error.
            if pids and lines(tmp_path / "chaos") >= 3 * len(kills):
                kills.append(generator.choice(pids))
                os.kill(kills[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        records = run(tmp_path / "chaos", workers=2, slots_per_worker=2, episodes=8, delay=0.02)
    finally:
        finished.set()
        killer.join()
    assert len(kills) >= 3
    assert stable(records) == stable(calm)
    assert lines(tmp_path / "chaos") == 24  # no episode lost, none twice


def test_two_runners_do_not_share_a_file(tmp_path: Path) -> None:
    with start_runner(tmp_path) as process:
        while lines(tmp_path) < 1:
            time.sleep(0.005)
        with pytest.raises(FoundryError, match="another evaluation is writing"):
            run(tmp_path)
        process.kill()


def test_records_are_plain_json_lines(reference: list[EpisodeRecord]) -> None:
    for record in reference:
        assert "\n" not in record.to_line()
        assert EpisodeRecord.from_line(json.dumps(json.loads(record.to_line()))) == record


def test_a_suite_can_be_given_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from foundry_bench.envs import suites

    monkeypatch.setattr(suites, "resolve_suites", lambda name: [suites.Suite(name, tuple(tasks(2)))])
    assert len(run(tmp_path, tasks="libero_spatial", episodes=1)) == 2


def test_the_expert_is_judged_by_name_and_refuses_other_actions(tmp_path: Path) -> None:
    joints = Protocol(action_convention="joint_position_delta")
    with pytest.raises(FoundryError, match=r"policy=scripted acts by osc_pose_delta.*joint_position_delta"):
        evaluate("scripted", "libero_object", joints, tmp_path)
    with pytest.raises(FoundryError, match="inside of the simulator"):
        find_policy("scripted").predict({}, [])
