from __future__ import annotations

import zlib
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest

from foundry_bench.envs import model_memory, scene
from foundry_bench.envs.cache import write_label
from foundry_bench.envs.libero_problem import LiberoProblem
from foundry_bench.envs.meshes import Mesh, decimate, with_normals
from foundry_bench.envs.scene import PROFILES, load_scene, render_profile
from foundry_bench.envs.simulation import Simulation
from foundry_bench.envs.suites import task
from foundry_bench.errors import FoundryError

_XML = "<mujoco><worldbody><geom name='floor' type='plane' size='1 1 1'/></worldbody></mujoco>"
_SEEN_ONLY = ("_", "mesh", "tex", "mat", "names", "paths", "bvh", "geom_dataid", "geom_matid", "stat", "vis")
_INDICES = ("bvhadr", "bvhnum", "meshid")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDRY_BENCH_CACHE", str(tmp_path))
    return tmp_path


def test_a_scene_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_scene(_XML, PROFILES["exact"])
    monkeypatch.setattr(scene, "_compile", lambda *_: pytest.fail("compiled again"))
    second = load_scene(_XML, PROFILES["exact"])
    assert first.ngeom == second.ngeom == 1


def test_a_damaged_file_is_made_again(cache: Path) -> None:
    load_scene(_XML, PROFILES["exact"])
    (path,) = (cache / "scenes").glob("*.mjb")
    data = path.read_bytes()
    for damaged in (data[:-7], data[:10], b"", data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(damaged)
        assert load_scene(_XML, PROFILES["exact"]).ngeom == 1
        assert path.read_bytes() == data


def test_a_file_without_a_label_of_its_own_is_made_again(cache: Path) -> None:
    load_scene(_XML, PROFILES["exact"])
    (path,) = (cache / "scenes").glob("*.json")
    label = path.read_text()
    for damaged in ("", "[]", "{}", label.replace('"checksum": "', '"checksum": "1')):
        path.write_text(damaged)
        assert load_scene(_XML, PROFILES["exact"]).ngeom == 1
        assert path.read_text() == label


def test_what_passes_the_checksum_and_is_no_model_is_made_again(cache: Path) -> None:
    load_scene(_XML, PROFILES["exact"])
    (path,) = (cache / "scenes").glob("*.mjb")
    data = path.read_bytes()
    path.write_bytes(b"not a model")
    write_label(path, {"checksum": f"11:{zlib.crc32(b'not a model'):08x}"})
    assert load_scene(_XML, PROFILES["exact"]).ngeom == 1
    assert path.read_bytes() == data


@pytest.mark.parametrize("provider", [True, False])
def test_a_model_from_memory_is_the_model_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: bool
) -> None:
    monkeypatch.setattr(model_memory, "_registered", lambda: provider)
    file = tmp_path / "scene.mjb"
    mujoco.mj_saveModel(mujoco.MjModel.from_xml_string(_XML), str(file), None)
    again = tmp_path / "again.mjb"
    mujoco.mj_saveModel(model_memory.load_model(file.read_bytes()), str(again), None)
    assert again.read_bytes() == file.read_bytes()
    for damaged in (file.read_bytes()[:-3], b"x", bytes(300)):
        with pytest.raises(ValueError, match="mj_loadModel"):
            model_memory.load_model(damaged)
    assert not model_memory._provided


def test_twins_are_loaded_once_and_others_are_left_alone() -> None:
    xml = """<mujoco><asset>
      <texture name="a" type="2d" file="bowl.png"/><texture name="b" file="bowl.png" type="2d"/>
      <texture name="c" type="cube" file="bowl.png"/><texture name="d" type="2d" builtin="flat" width="1"/>
      <texture name="e" type="2d" builtin="flat" width="1"/>
      <mesh name="a" file="bowl.obj"/><mesh name="b" file="bowl.obj"/>
      <mesh name="c" file="bowl.obj" scale="2 2 2"/>
      <material name="one" texture="b"/><material name="two" texture="c"/><material name="three" texture="e"/>
    </asset><worldbody><geom mesh="b"/><body><geom mesh="c"/></body></worldbody></mujoco>"""
    root = ElementTree.fromstring(scene.without_twins(xml))  # noqa: S314 - our own
    assert [item.get("name") for item in root.iter("texture")] == ["a", "c", "d", "e"]
    assert [item.get("name") for item in root.iter("mesh")] == ["a", "c"]
    assert [item.get("texture") for item in root.iter("material")] == ["a", "c", "e"]
    assert [item.get("mesh") for item in root.iter("geom")] == ["a", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["exact", "fast"])
def test_without_twins_a_scene_looks_and_moves_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    def look() -> tuple[int, list[np.ndarray]]:
        simulation = Simulation(task("libero_spatial", 0), ("agentview", "wrist"), 128, "native", profile)
        simulation.start(0, 7)
        seen = simulation.wait(2)
        textures = simulation.problem.model.ntex
        simulation.close()
        return textures, [seen["agentview"], seen["wrist"], simulation.problem.state()]

    few, ours = look()
    for path in (cache / "scenes").iterdir():
        path.unlink()
    monkeypatch.setattr(scene, "without_twins", lambda xml: xml)
    many, theirs = look()
    assert few < many
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_profiles_and_scenes_do_not_share_files(cache: Path) -> None:
    load_scene(_XML, PROFILES["exact"])
    load_scene(_XML, PROFILES["fast"])
    load_scene(_XML.replace("floor", "ground"), PROFILES["fast"])
    assert len(list((cache / "scenes").glob("*.mjb"))) == 3


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(FoundryError, match="did you mean 'exact'"):
        render_profile("exakt")


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "index"), [("libero_spatial", 0), ("libero_object", 3), ("libero_10", 9)])
def test_lighter_meshes_do_not_change_physics(suite: str, index: int) -> None:
    fast = LiberoProblem(task(suite, index), PROFILES["fast"]).model
    exact = LiberoProblem(task(suite, index), PROFILES["exact"]).model
    solid = (exact.geom_contype != 0) | (exact.geom_conaffinity != 0)
    for name in dir(exact):
        value = getattr(exact, name)
        if not isinstance(value, np.ndarray) or name.startswith(_SEEN_ONLY) or name.endswith(_INDICES):
            continue
        other = getattr(fast, name)
        if name.startswith("geom_") and len(value) == exact.ngeom:
            value, other = value[solid], other[solid]
        np.testing.assert_array_equal(value, other, err_msg=name)


def test_decimation_keeps_the_shape_and_bounds_the_size() -> None:
    vertices, faces = _sphere(40)
    mesh = Mesh(vertices, faces, np.zeros((0, 2)), np.zeros_like(faces))
    light = decimate(mesh, 300)
    assert len(light.vertices) <= 300
    assert np.abs(np.linalg.norm(light.vertices, axis=1) - 1).max() < 0.1
    assert light.faces.max() == len(light.vertices) - 1
    assert _volume(light) == pytest.approx(_volume(mesh), rel=0.1)


def test_decimation_keeps_both_sides_of_a_thin_wall() -> None:
    vertices, faces = _sphere(40)
    shell = np.concatenate([vertices, 0.97 * vertices])
    both = np.concatenate([faces, faces[:, ::-1] + len(vertices)])
    light = decimate(Mesh(shell, both, np.zeros((0, 2)), np.zeros_like(both)), 700)
    corners = light.vertices[light.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward = (normals * corners.mean(axis=1)).sum(axis=1)
    assert (outward > 0).mean() == pytest.approx(0.5, abs=0.05)


def test_texture_coordinates_follow_their_charts() -> None:
    vertices, faces = _sphere(40)
    texcoords = (vertices[:, :2] + 1) / 2
    light = decimate(Mesh(vertices, faces, texcoords, faces), 300)
    where = light.vertices[light.faces].reshape(-1, 3)[:, :2]
    said = light.texcoords[light.corners].reshape(-1, 2) * 2 - 1
    assert np.abs(where - said).max() < 0.25
    assert np.abs(where - said).mean() < 0.05


def test_the_sides_of_a_seam_are_not_mixed() -> None:
    """A texture around a ball, cut open along a meridian: no triangle may stretch across the whole of it."""
    vertices, faces = _sphere(40)
    around = np.arctan2(vertices[:, 1], vertices[:, 0]) / (2 * np.pi) + 0.5
    across = around[faces]  # (F, 3); a triangle over the cut gets coordinates beyond 1, as exporters write it
    across = np.where(across < across.max(axis=1, keepdims=True) - 0.5, across + 1, across)
    height = (vertices[faces][:, :, 2] + 1) / 2
    texcoords = np.stack([across, height], axis=2).reshape(-1, 2)
    light = decimate(Mesh(vertices, faces, texcoords, np.arange(3 * len(faces)).reshape(-1, 3)), 300)
    said = light.texcoords[light.corners]
    girdle = np.abs(light.vertices[light.faces][:, :, 2]).max(axis=1) < 0.7  # meridians meet at the poles
    assert np.ptp(said[girdle][:, :, 0], axis=1).max() < 0.3
    place = light.vertices[light.faces][girdle]
    true = np.arctan2(place[..., 1], place[..., 0]) / (2 * np.pi) + 0.5
    off = np.abs(said[girdle][..., 0] - true) % 1.0
    assert np.minimum(off, 1 - off).max() < 0.1


def test_normals_are_sharp_at_edges_and_smooth_elsewhere() -> None:
    from scipy.spatial import ConvexHull

    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
    hull = ConvexHull(cube)
    faces = np.array(
        [
            face if np.dot(np.cross(*(cube[face[1:]] - cube[face[0]])), equation[:3]) > 0 else face[::-1]
            for face, equation in zip(hull.simplices, hull.equations, strict=True)
        ]
    )
    split, normals = with_normals(Mesh(cube, faces, np.zeros((0, 2)), np.zeros_like(faces)))
    assert len(split.vertices) == 24
    np.testing.assert_allclose(np.abs(normals).max(axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(split.vertices[split.faces], cube[faces])
    vertices, faces = _sphere(40)
    split, normals = with_normals(Mesh(vertices, faces, np.zeros((0, 2)), np.zeros_like(faces)))
    assert len(split.vertices) == len(vertices)
    assert (normals * split.vertices).sum(axis=1).min() > 0.99


def _sphere(count: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import ConvexHull

    index = np.arange(count * count) + 0.5
    polar, turn = np.arccos(1 - 2 * index / len(index)), np.pi * (1 + 5**0.5) * index
    points = np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], axis=1)
    faces = ConvexHull(points).simplices
    corners = points[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = (normals * corners.mean(axis=1)).sum(axis=1) < 0
    faces[inward] = faces[inward][:, ::-1]
    return points, faces


def _volume(mesh: Mesh) -> float:
    corners = mesh.vertices[mesh.faces]
    return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def test_mujoco_is_the_pinned_version() -> None:
    assert mujoco.__version__ == "3.3.2"
