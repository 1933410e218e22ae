from __future__ import annotations

import mujoco
import numpy as np
import pytest

from foundry_bench.envs.culling import HIDDEN_GROUP, Culling
from foundry_bench.envs.render import CAMERAS
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import task

_SIZE = 64


def _simulation(suite: str, index: int, profile: str) -> Simulation:
    simulation = Simulation(task(suite, index), tuple(CAMERAS), _SIZE, "native", profile)
    simulation.start(0, 7)
    return simulation


def _whole(simulation: Simulation, camera: str, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A frame for which everything is drawn."""
    with monkeypatch.context() as patch:
        patch.setattr(Culling, "unseen", lambda *_: np.empty(0, np.int64))
        return simulation.frame(camera)


@pytest.mark.parametrize(
    ("suite", "index", "profile"),
    [
        ("libero_goal", 1, "fast"),
        pytest.param("libero_10", 8, "exact", marks=pytest.mark.slow),
        pytest.param("libero_spatial", 0, "exact", marks=pytest.mark.slow),
    ],
)
def test_no_pixel_changes_wherever_a_camera_looks(
    suite: str, index: int, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = _simulation(suite, index, profile)
    model, data = simulation.problem.model, simulation.problem.data
    chance = np.random.default_rng(0)
    left_out = []
    for number in range(12):
        for _ in range(4):
            simulation.step(chance.uniform(-1, 1, simulation.action_dim), observe=False)
        for camera, own in CAMERAS.items():
            identity = model.camera(own).id
            if number % 2:  # elsewhere, at any angle, wide or narrow
                model.cam_pos[identity] += chance.normal(0, 0.3, 3)
                model.cam_quat[identity] = chance.normal(size=4)
                model.cam_fovy[identity] = chance.uniform(20, 100)
                mujoco.mj_forward(model, data)
            culling = Culling(model, profile == "exact", profile == "exact")
            left_out.append(len(culling.unseen(model, data, identity)))
            whole = _whole(simulation, camera, monkeypatch)
            np.testing.assert_array_equal(simulation.frame(camera), whole, err_msg=f"{camera} {number}")
    assert np.mean(left_out) > 20


def test_the_camera_in_the_hand_does_not_see_the_arm() -> None:
    simulation = _simulation("libero_goal", 1, "fast")
    model = simulation.problem.model
    unseen = Culling(model, False, False).unseen(
        model, simulation.problem.data, model.camera(CAMERAS["wrist"]).id
    )
    bodies = {model.body(model.geom_bodyid[geom]).name for geom in unseen}
    assert {"robot0_link0", "robot0_link1", "robot0_link3", "robot0_link5"} <= bodies
    assert not {"gripper0_leftfinger", "akita_black_bowl_1_main"} & bodies


_ROOM = """
<mujoco>
  <asset>
    <material name="mirror" reflectance="0.8"/>
    <mesh name="rock" vertex="0 0 0 .1 0 0 0 .1 0 0 0 .1"/>
  </asset>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1" castshadow="{casts}"/>
    <camera name="eye" pos="0 0 1" xyaxes="1 0 0 0 1 0" fovy="40"/>
    <geom name="{mirror}" type="box" size=".3 .3 .1" {material} group="1"/>
    <geom name="in view" type="mesh" mesh="rock" pos="0 0 .3" group="1"/>
    <geom name="above the camera" type="mesh" mesh="rock" pos="0 0 1.6" group="1"/>
    <geom name="far beside" type="mesh" mesh="rock" pos="5 0 .3" group="1"/>
    <geom name="a box beside" type="box" size=".1 .1 .1" pos="5 0 .3" group="1"/>
    <geom name="not drawn anyhow" type="mesh" mesh="rock" pos="5 0 .3" group="0"/>
  </worldbody>
</mujoco>
"""


@pytest.mark.parametrize(
    ("mirror", "casts", "shadows", "reflections", "expected"),
    [
        (False, False, True, True, {"above the camera", "far beside"}),
        # The table mirrors what hangs over the camera.
        (True, False, True, True, {"far beside"}),
        (True, False, True, False, {"above the camera", "far beside"}),
        # A shadow may fall into the picture from anywhere.
        (False, True, True, True, set()),
        (False, True, False, True, {"above the camera", "far beside"}),
    ],
)
def test_mirrors_and_shadows_show_what_is_out_of_sight(
    mirror: bool, casts: bool, shadows: bool, reflections: bool, expected: set[str]
) -> None:
    material = 'material="mirror"' if mirror else ""
    model = mujoco.MjModel.from_xml_string(
        _ROOM.format(casts=str(casts).lower(), mirror="table", material=material)
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    unseen = Culling(model, shadows, reflections).unseen(model, data, model.camera("eye").id)
    assert {model.geom(int(geom)).name for geom in unseen} == expected


def test_a_mirror_out_of_sight_shows_nothing() -> None:
    xml = _ROOM.format(casts="false", mirror="table", material='material="mirror"')
    model = mujoco.MjModel.from_xml_string(xml.replace('size=".3 .3 .1"', 'size=".3 .3 .1" pos="5 0 0"'))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    unseen = Culling(model, True, True).unseen(model, data, model.camera("eye").id)
    # Not even itself, which would cost a second drawing of everything.
    assert {model.geom(int(geom)).name for geom in unseen} == {"table", "above the camera", "far beside"}


def test_geoms_are_in_their_groups_again_after_a_frame() -> None:
    simulation = _simulation("libero_goal", 1, "fast")
    before = simulation.problem.model.geom_group.copy()
    simulation.frame("wrist")
    np.testing.assert_array_equal(simulation.problem.model.geom_group, before)
    assert HIDDEN_GROUP not in before
