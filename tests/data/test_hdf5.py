"""HDF5 of LIBERO, of OpenVLA's regeneration and of robomimic: what is read is what happened."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.data.convert import to_lerobot
from foundry_bench.data.hdf5 import DemoFile
from foundry_bench.data.lerobot import RobotDataset
from foundry_bench.data.model_xml import body_poses, with_poses
from foundry_bench.data.recordings import axis_angle, task_of
from foundry_bench.data.sources import open_source
from foundry_bench.errors import FoundryError
from tests.data.demo_files import KINDS, LENGTHS, SIZE, TASK, XML, write


@pytest.fixture
def libero(tmp_path: Path) -> Path:
    path = tmp_path / "libero_goal" / f"{TASK}_demo.hdf5"
    write(path, "libero")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_what_was_seen_before_its_action(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "libero_goal" / f"{TASK}_demo.hdf5"
    truths = write(path, kind)
    skipped = int(kind == "libero")  # LIBERO has no picture from before its first action
    with DemoFile(path) as file:
        assert (file.kind, len(file), file.image_size, file.fps) == (kind, 2, SIZE, 20)
        for name, truth in zip(file.demos, truths, strict=True):
            recording = file.recording(name)
            rows = slice(skipped, len(truth.actions))
            np.testing.assert_array_equal(recording.actions, truth.actions[rows])
            np.testing.assert_array_equal(recording.states, truth.states[rows])
            np.testing.assert_array_equal(recording.init_state, truth.states[skipped])
            np.testing.assert_allclose(recording.robot[:, 6:], truth.fingers[rows], rtol=1e-6)
            if kind != "robomimic":
                np.testing.assert_allclose(recording.robot[:, :6], truth.hand[rows], rtol=1e-6)
            assert recording.wait_steps == (10 if kind == "regenerated" else 0)
            assert recording.success
            for camera, pictures in zip(("agentview", "wrist"), truth.pictures, strict=True):
                np.testing.assert_array_equal(list(file.images(name, camera)), pictures[rows])


def test_what_the_file_says_of_its_task(libero: Path, tmp_path: Path) -> None:
    with DemoFile(libero) as file:
        recording = file.recording("demo_0")
        assert file.instruction == "put the bowl on it"
    assert (recording.suite, recording.task_index, recording.expert) == ("libero_goal", 1, "human")
    assert recording.fixtures == {"wooden_cabinet_1": [0.1, 0.2, 0.9, 0, 0, 0, 1]}
    regenerated = tmp_path / "libero_10" / "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove_demo.hdf5"
    write(regenerated, "regenerated")
    with DemoFile(regenerated) as file:
        assert file.instruction == "put both moka pots on the stove"
        assert task_of(file.bddl) == ("libero_10", 8)
    write(tmp_path / "lift.hdf5", "robomimic")
    with DemoFile(tmp_path / "lift.hdf5") as file:
        assert file.instruction == "lift the red cube"
        assert file.recording("demo_0").task_index == -1


def test_rows_as_they_are_stored(libero: Path) -> None:
    with DemoFile(libero, pairing="stored") as file:
        assert len(file.recording("demo_0").actions) == LENGTHS[0]
        assert len(list(file.images("demo_0", "wrist"))) == LENGTHS[0]
    with pytest.raises(FoundryError, match=r"data\.pairing=storde: .*did you mean 'stored'"):
        DemoFile(libero, pairing="storde")


def test_without_states_the_layout_decides(libero: Path) -> None:
    with h5py.File(libero, "a") as file:
        for name in ("demo_0", "demo_1"):
            del file[f"data/{name}/states"]
    with DemoFile(libero) as opened:
        recording = opened.recording("demo_0")
        assert (len(recording.actions), recording.states, recording.init_state.size) == (
            LENGTHS[0] - 1,
            None,
            0,
        )


@pytest.mark.parametrize("image_format", ["png", "h264"])
def test_conversion_to_lerobot(libero: Path, tmp_path: Path, image_format: str) -> None:
    source = open_source(libero.parent)
    done = to_lerobot(source, tmp_path / "dataset", image_format, image_size=8)
    assert (done.episodes, done.new, done.failed, done.unknown) == (2, 2, 0, 0)
    read = RobotDataset(tmp_path / "dataset")
    assert read.spec.image_size == 8
    assert list(read.episodes["length"]) == [length - 1 for length in LENGTHS]
    assert set(read.episodes["expert"]) == {"human"}
    assert list(read.episodes["task_index"]) == [1, 1]
    recording, again = source.recording(1), read.recording(1)
    np.testing.assert_array_equal(again.actions, recording.actions.astype(np.float32))
    np.testing.assert_array_equal(again.init_state, recording.init_state)
    assert again.fixtures == recording.fixtures
    once_more = to_lerobot(source, tmp_path / "dataset", image_format, image_size=8)
    assert once_more.new == 0


def test_a_conversion_that_was_stopped_goes_on(libero: Path, tmp_path: Path) -> None:
    with h5py.File(libero, "a") as file:
        good = file["data/demo_1/actions"][()]
        file["data/demo_1/actions"][2] = np.nan
    with pytest.raises(FoundryError, match=r"data/demo_1/actions is NaN or infinite in row 2, 1 such rows"):
        to_lerobot(open_source(libero), tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()
    with h5py.File(libero, "a") as file:
        file["data/demo_1/actions"][()] = good
    assert to_lerobot(open_source(libero), tmp_path / "dataset").new == 1


@settings(max_examples=60, deadline=None)
@given(
    position=st.lists(st.floats(-10, 10), min_size=3, max_size=3),
    quaternion=st.lists(st.floats(-1, 1), min_size=4, max_size=4),
)
def test_poses_survive_the_model(position: list[float], quaternion: list[float]) -> None:
    poses = {"wooden_cabinet_1": position + quaternion, "unknown": [0.0] * 7}
    assert body_poses(with_poses(XML, poses), "model") == {"wooden_cabinet_1": position + quaternion}


def test_axis_angle_is_robosuites() -> None:
    from robosuite.utils.transform_utils import quat2axisangle

    quaternions = np.random.default_rng(0).normal(size=(50, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    quaternions[0] = [0, 0, 0, 1]
    expected = [quat2axisangle(quaternion.copy()) for quaternion in quaternions]
    np.testing.assert_allclose(axis_angle(quaternions), expected, atol=1e-12)


def in_file(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return harm


def replaced(name: str, content: object) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = content

    return in_file(change)


def elsewhere(path: Path) -> None:
    """Actions that lie in another file."""
    other = path.with_name("secret.hdf5")
    shutil.copy(path, other)
    with h5py.File(path, "a") as file:
        del file["data/demo_0/actions"]
        file["data/demo_0/actions"] = h5py.ExternalLink(str(other), "data/demo_0/actions")


def virtual(path: Path) -> None:
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((9, 7), "f8")
        layout[:] = h5py.VirtualSource("secret.hdf5", "data/demo_0/actions", (9, 7))
        del file["data/demo_0/actions"]
        file["data/demo_0"].create_virtual_dataset("actions", layout)


def enormous(path: Path) -> None:
    """A file of a few kB that says it holds terabytes."""
    with h5py.File(path, "a") as file:
        del file["data/demo_0/actions"]
        file.create_dataset("data/demo_0/actions", (10**9, 1000), "f8", chunks=(1, 1000))


def model(xml: str) -> Callable[[Path], None]:
    return in_file(lambda file: file["data/demo_0"].attrs.__setitem__("model_file", xml))


AGENT = "data/demo_0/obs/agentview_rgb"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), r"truncated, damaged or not HDF5"),
        (lambda path: path.write_bytes(b""), r"truncated, damaged or not HDF5"),
        (lambda path: path.write_text("data"), r"truncated, damaged or not HDF5"),
        (lambda path: path.unlink(), r"there is no such file"),
        (in_file(lambda file: file.pop("data")), r"the file has no group 'data', so this is no LIBERO"),
        (in_file(lambda file: file.move("data/demo_0", "data/other")), None),
        (in_file(lambda file: [file.pop(f"data/demo_{n}") for n in (0, 1)]), r"no episode named demo_0"),
        (in_file(lambda file: file.pop("data/demo_0/obs")), r"data/demo_0 has no group 'obs'"),
        (in_file(lambda file: file.pop("data/demo_0/actions")), r"data/demo_0/actions is missing, there is"),
        (in_file(lambda file: file.pop(AGENT)), None),
        (replaced("data/demo_0/actions", np.zeros((9, 7), "S3")), r"actions is \|S3 of shape"),
        (replaced("data/demo_0/actions", np.zeros(9)), r"actions is float64 of shape \(9,\)"),
        (replaced("data/demo_0/actions", np.zeros((0, 7))), r"actions is float64 of shape \(0, 7\)"),
        (
            replaced("data/demo_0/states", np.zeros((8, 19))),
            r"states is float64 of shape \(8, 19\), expected 9 rows",
        ),
        (
            replaced("data/demo_0/obs/ee_states", np.full((9, 6), np.inf)),
            r"ee_states is NaN or infinite in row 0",
        ),
        (
            replaced("data/demo_0/obs/ee_states", np.zeros((9, 7))),
            r"hand and fingers are 7 and 2 numbers, expected 6",
        ),
        (replaced(AGENT, np.zeros((9, 16, 16, 3))), r"agentview_rgb is float64 of shape"),
        (replaced(AGENT, np.zeros((9, 16, 12, 3), np.uint8)), r"expected uint8 of \(steps, size, size, 3\)"),
        (elsewhere, r"data/demo_0/actions is no dataset of this file"),
        (virtual, r"data/demo_0/actions is no dataset of this file"),
        (enormous, r"actions is float64 of shape \(1000000000, 1000\)"),
        (model("<mujoco"), r"model_file of demo_0: not readable as XML"),
        (model('<!DOCTYPE a [<!ENTITY b "c">]><mujoco/>'), r"model_file of demo_0: not a MuJoCo model"),
        (
            model(XML.replace("0.1 0.2 0.9", "0.1 x 0.9")),
            r"pose of body 'wooden_cabinet_1_main' is not numbers",
        ),
        (model(XML.replace("0.1 0.2 0.9", "0.1")), r"has a pose of another size"),
        (
            in_file(lambda file: file["data/demo_0"].attrs.__setitem__("start_state", "x")),
            r"attributes of demo_0 cannot",
        ),
        (
            in_file(lambda file: file["data/demo_0"].attrs.__setitem__("wait_steps", -5)),
            r"demo_0 has no valid start_state",
        ),
    ],
)
def test_bad_files_are_named(libero: Path, harm: Callable[[Path], object], message: str | None) -> None:
    harm(libero)
    if message is None:  # less is there, but what is there is good
        with DemoFile(libero) as file:
            assert len(file.recording(file.demos[0]).actions) > 0
        return
    with pytest.raises(FoundryError, match=message) as raised, DemoFile(libero) as file:
        for name in file.demos:
            file.recording(name)
            for camera in file.cameras:
                list(file.images(name, camera))
    assert "\n" not in str(raised.value)
    assert str(libero) in str(raised.value)


def test_cameras_are_named(libero: Path) -> None:
    with DemoFile(libero, {"front": "agentview_rgb"}) as file:
        assert len(list(file.images("demo_0", "front"))) == LENGTHS[0] - 1
    with pytest.raises(
        FoundryError, match=r"camera 'front' \(image\) is missing, it has: agentview_rgb, eye_in_"
    ):
        DemoFile(libero, {"front": "image"})
    with h5py.File(libero, "a") as raw:
        for name in ("agentview_rgb", "eye_in_hand_rgb"):
            del raw[f"data/demo_0/obs/{name}"]
    with pytest.raises(FoundryError, match=r"no images of agentview or wrist.*dataset_states_to_obs"):
        DemoFile(libero)


def test_random_damage_is_harmless_or_named(libero: Path) -> None:
    good = libero.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(150):
        content = bytearray(good[: rng.integers(len(good))] if rng.random() < 0.2 else good)
        for position in rng.integers(0, max(len(content), 1), min(6, len(content))):
            content[position] = rng.integers(256)
        libero.write_bytes(content)
        try:
            with DemoFile(libero) as file:
                for name in file.demos:
                    file.recording(name)
                    for camera in file.cameras:
                        list(file.images(name, camera))
            outcomes.append("fine")
        except FoundryError as error:
            outcomes.append("named")
            assert "\n" not in str(error)
    assert {"fine", "named"} == set(outcomes)


def test_places_that_hold_nothing(tmp_path: Path, libero: Path) -> None:
    with pytest.raises(FoundryError, match="there is no such file or folder"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FoundryError, match=r"neither a LeRobotDataset .* nor a folder of HDF5 files"):
        open_source(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FoundryError, match=r"is no HDF5 file \(\.hdf5, \.h5\)"):
        open_source(tmp_path / "notes.txt")
    write(libero.parent / "other.h5", "robomimic")
    with pytest.raises(FoundryError, match=r"cameras .* but .* convert them one by one"):
        with h5py.File(libero.parent / "other.h5", "a") as raw:
            del raw["data/demo_0/obs/agentview_image"]
        open_source(libero.parent)
