"""What is said to be true, against the simulator by other means than those it was found by."""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from foundry_bench.data.captions.config import CaptionsConfig
from foundry_bench.data.captions.facts import Facts
from foundry_bench.data.captions.observe import project
from foundry_bench.data.captions.randomise import Scene
from foundry_bench.data.captions.relations import side
from foundry_bench.data.captions.service import SceneMaker
from foundry_bench.envs.suites import init_states, task

SIZE = 96
CONFIG = CaptionsConfig(image_size=SIZE, camera_jitter=1.5)
_MIRRORED = -1  # the picture's x goes down as the world's y goes up


@pytest.fixture(
    scope="module",
    params=[
        ("libero_goal", 0),
        pytest.param(("libero_spatial", 3), marks=pytest.mark.slow),
        pytest.param(("libero_10", 9), marks=pytest.mark.slow),
    ],
)
def maker(request: pytest.FixtureRequest) -> Iterator[SceneMaker]:
    made = SceneMaker(task(*request.param), CONFIG)
    yield made
    made.close()


def scenes(maker: SceneMaker, count: int) -> Iterator[tuple[int, Facts]]:
    """Scenes of the maker with the agent view's facts; the simulator is in the scene while one is handled."""
    for number in range(count):
        generator = np.random.default_rng([7, number])
        scene = maker.randomiser.randomise(generator)
        picture = maker.camera.picture(maker.model, maker.data, "agentview")
        yield number, maker.observer.facts(picture, "agentview", scene)
        maker.randomiser.restore()


def test_points_and_pixels_are_those_that_change_when_a_thing_vanishes(maker: SceneMaker) -> None:
    """The segmentation is never asked: the picture with the thing is compared with that without it."""
    checked = 0
    for _, facts in scenes(maker, 4):
        before = maker.camera.render(maker.model, maker.data, "agentview").astype(int)
        for thing in facts.things:
            if thing.fixture or not thing.pixels:
                continue
            geoms = sorted(maker.randomiser.geoms_of(thing.name))
            groups = maker.model.geom_group[geoms].copy()
            maker.model.geom_group[geoms] = 5  # a group that is not drawn
            without = maker.camera.render(maker.model, maker.data, "agentview").astype(int)
            maker.model.geom_group[geoms] = groups
            changed = np.abs(before - without).max(axis=2) > 0
            assert changed.sum() <= thing.pixels
            # A pixel may keep its colour by chance, as a white plate on a white shelf.
            assert changed.sum() >= 0.6 * thing.pixels
            rows, columns = np.nonzero(changed)
            left, top, right, bottom = thing.box
            assert left <= columns.min()
            assert columns.max() <= right
            assert top <= rows.min()
            assert rows.max() <= bottom
            x, y = thing.point
            assert changed[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()
            checked += 1
    assert checked >= 8


def test_projection_finds_things_where_they_are_seen(maker: SceneMaker) -> None:
    """Pinhole geometry against the renderer: the picture is mirrored, and so is the projection."""
    checked = 0
    for _, facts in scenes(maker, 4):
        for thing in facts.clear_things():
            if thing.fixture or thing.share < 0.8:
                continue
            points = maker.randomiser.world.points(thing.name)
            middle = project(maker.model, maker.data, "agentview", points.mean(axis=0)[None], SIZE)[0]
            assert abs(middle[0] - (thing.box[0] + thing.box[2]) / 2) < 5, thing
            assert abs(middle[1] - (thing.box[1] + thing.box[3]) / 2) < 5, thing
            checked += 1
    assert checked >= 4


def test_left_and_right_agree_with_the_world(maker: SceneMaker) -> None:
    """Of things equally far away, the agent view shows the one with the greater y to the left."""
    checked = 0
    for _, facts in scenes(maker, 12):
        for one in facts.named():
            for other in facts.named():
                found = side(one, other, SIZE)
                if found and not one.fixture and not other.fixture and abs(one.depth - other.depth) < 0.15:
                    across = _MIRRORED * (one.position[1] - other.position[1])
                    assert found == ("left" if across < 0 else "right")
                    checked += 1
    assert checked >= 2


def test_states_agree_with_liberos_predicates(maker: SceneMaker) -> None:
    env, told = maker.randomiser.problem.env, set()
    words = {
        "open": ("open", True),
        "closed": ("open", False),
        "on": ("turnon", True),
        "off": ("turnon", False),
    }
    for _, facts in scenes(maker, 12):
        for part, seen in zip(maker.randomiser.parts, facts.parts, strict=True):
            assert seen.name == part.name
            if seen.state not in words:
                continue
            predicate, true = words[seen.state]
            named = part.regions[0] if part.kind == "drawer" else part.owner
            assert bool(env._eval_predicate([predicate, named])) == true, seen
            told.add(seen.state)
    assert len(told) >= 2


def test_no_openness_is_called_what_liberos_predicates_deny(maker: SceneMaker) -> None:
    env = maker.randomiser.problem.env
    for part in maker.randomiser.parts:
        fixture = env.get_object(part.owner)
        for openness in np.linspace(0, 1, 201):
            position, state = part.position(float(openness)), part.state(float(openness))
            if part.kind == "knob":
                assert state != "on" or position >= 0.5
                assert state != "off" or position < 0.1
            else:
                assert state != "open" or fixture.is_open(position)
                assert state not in ("closed", "partly open") or not fixture.is_open(position)
            assert part.openness(position) == pytest.approx(openness)


def test_a_bowl_on_the_rim_of_a_plate_is_neither_on_it_nor_apart_from_it(maker: SceneMaker) -> None:
    randomiser = maker.randomiser
    names = {"akita_black_bowl_1", "plate_1"}
    if not names <= set(randomiser.world.bodies):
        pytest.skip("another scene")
    randomiser.simulation.begin(*randomiser.problem.sample_state(0))
    for number, name in enumerate(randomiser._free):
        randomiser._put_away(name, number)
    plate = np.array([0.0, 0.05, randomiser.problem.env.workspace_offset[2]])
    for off, held in ((0.0, True), (0.06, False)):
        assert randomiser._lower("plate_1", plate)
        assert randomiser._lower("akita_black_bowl_1", plate + np.array([off, 0, 0.003]))
        assert randomiser._settle()
        holdings, unclear = maker.observer._holdings.now(names)
        found = ("akita_black_bowl_1", "plate_1") in {(h.thing, h.place) for h in holdings}
        assert found == held
        assert (("akita_black_bowl_1", "plate_1") in unclear) == (not held)
    randomiser.restore()


def test_what_lies_in_or_on_something_is_above_it_and_within_it(maker: SceneMaker) -> None:
    world, found = maker.randomiser.world, 0
    for _, facts in scenes(maker, 12):
        for holding in facts.holdings:
            if not holding.place:
                continue
            place = world.points(holding.place)
            spot = world.position(holding.thing)
            assert (spot[:2] > place[:, :2].min(axis=0) - 0.01).all()
            assert (spot[:2] < place[:, :2].max(axis=0) + 0.01).all()
            assert spot[2] > place[:, 2].min()
            found += 1
    assert found >= 2


def test_scenes_are_at_rest_and_the_robot_touches_nothing(maker: SceneMaker) -> None:
    for _, facts in scenes(maker, 4):
        before = {thing.name: np.array(thing.position) for thing in facts.things}
        robot = maker.randomiser.robot_geoms
        for contact in maker.data.contact[: maker.data.ncon]:
            if (int(contact.geom1) in robot) != (int(contact.geom2) in robot):
                assert contact.dist > -0.003
        arm = maker.data.qpos[:9].copy()
        for _ in range(50):
            maker.data.qpos[:9] = arm
            maker.data.qvel[:9] = 0
            mujoco.mj_step(maker.model, maker.data)
        for name, position in before.items():
            assert np.linalg.norm(maker.randomiser.world.position(name) - position) < 0.01, name


def test_a_scene_is_a_function_of_its_number(maker: SceneMaker) -> None:
    """Whatever was made before: also paint, lights and cameras are put back."""
    first = maker.make(5)
    maker.make(6)
    assert maker.make(5) == first
    assert maker.make(6) != first


def test_an_official_init_state_is_recognised(maker: SceneMaker) -> None:
    which = maker.randomiser.problem.task
    maker.randomiser.problem.set_state(init_states(which)[17])
    assert maker._is_official()
    maker.make(0)
    assert not maker._is_official()


def test_an_official_state_is_thrown_away(maker: SceneMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter([True, True, False])
    made: list[int] = []
    randomise = maker.randomiser.randomise
    monkeypatch.setattr(maker, "_is_official", lambda: next(verdicts))

    def counted(generator: np.random.Generator) -> Scene:
        made.append(1)
        return randomise(generator)

    monkeypatch.setattr(maker.randomiser, "randomise", counted)
    maker.make(0)
    assert len(made) == 3


def test_paint_is_seen_and_named() -> None:
    config = CaptionsConfig(image_size=SIZE, scrambled=1.0, painted=1.0, light_jitter=0.0)
    maker = SceneMaker(task("libero_spatial", 3), config)
    usual = maker.model.mat_rgba.copy()
    seen = 0
    for number in range(4):
        for view in maker.make(number).views:
            for thing in view.facts.clear_things():
                if thing.painted:
                    assert thing.colour == thing.painted
                    assert thing.spoken.phrase == f"{thing.painted} {thing.spoken.noun}"
                    seen += 1
    assert seen >= 6
    assert (maker.model.mat_rgba == usual).all()
    maker.close()


def test_a_pair_that_touches_is_never_called_apart(maker: SceneMaker) -> None:
    """Every contact between two things is either a holding or unclear, in one direction or the other."""
    for _, facts in scenes(maker, 6):
        owner = {g: t.name for t in facts.things for g in maker.randomiser.geoms_of(t.name)}
        told = {(h.thing, h.place) for h in facts.holdings} | set(facts.unclear)
        for contact in maker.data.contact[: maker.data.ncon]:
            ends = {owner.get(int(contact.geom1), ""), owner.get(int(contact.geom2), "")} - {""}
            if len(ends) == 2:
                one, other = sorted(ends)
                fixtures = {t.name for t in facts.things if t.fixture}
                if not ends <= fixtures:
                    assert (one, other) in told or (other, one) in told, ends
