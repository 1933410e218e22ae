"""Lighter meshes and textures for the `fast` render profile.

Only what is drawn is touched: collision geoms keep their own meshes, and LIBERO's visual geoms carry no
mass, so physics does not change (a test compares the compiled arrays).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from foundry_bench.envs.files import NPZ_ERRORS, atomic_write

_CREASE = 0.64  # cosine of 50 degrees


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh. ``corners`` index ``texcoords`` per triangle corner, so that seams survive.

    Shapes: vertices (V, 3) in metres, faces (F, 3), texcoords (T, 2) or (0, 2), corners (F, 3).
    """

    vertices: np.ndarray
    faces: np.ndarray
    texcoords: np.ndarray
    corners: np.ndarray


def load_mesh(file: str, scale: np.ndarray) -> Mesh:
    """Read a mesh file as MuJoCo reads it, in the frame of the file, scaled."""
    spec = mujoco.MjSpec()
    item = spec.add_mesh(name="mesh", file=file)
    item.scale = scale
    item.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    geom = spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="mesh")
    geom.contype = geom.conaffinity = 0
    model = spec.compile()
    # MuJoCo moves a mesh into the frame of its inertia; move it back.
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, model.mesh_quat[0])
    vertices = model.mesh_vert.astype(np.float64) @ rotation.reshape(3, 3).T + model.mesh_pos[0]
    faces = model.mesh_face.copy()
    texcoords = (
        model.mesh_texcoord.astype(np.float64).reshape(-1, 2)
        if model.mesh_texcoordadr[0] >= 0
        else np.zeros((0, 2))
    )
    corners = model.mesh_facetexcoord.copy() if len(texcoords) else np.zeros_like(faces)
    return Mesh(vertices, faces, texcoords, corners)


def decimate(mesh: Mesh, max_vertices: int) -> Mesh:
    """Merge the vertices that share a cell of the finest grid with at most ``max_vertices`` cells.

    Vertex clustering (Rossignac and Borrel, 1993): robust for any triangle soup. The two sides of a thin wall
    stay apart, because vertices that face different ways are not merged. A triangle that falls into fewer
    than three clusters vanishes.
    """
    mesh = _weld(mesh)
    facing = _facing(mesh)
    low = mesh.vertices.min(axis=0)
    extent = float((mesh.vertices.max(axis=0) - low).max()) or 1.0

    def cells(resolution: float) -> np.ndarray:
        index = np.floor((mesh.vertices - low) * (resolution / extent) + 0.5).astype(np.int64)
        return ((index[:, 0] * 8191 + index[:, 1]) * 8191 + index[:, 2]) * 6 + facing

    fine, coarse = 1024.0, 2.0
    if len(np.unique(cells(fine))) > max_vertices:
        while fine / coarse > 1.05:
            middle = (fine * coarse) ** 0.5
            if len(np.unique(cells(middle))) > max_vertices:
                fine = middle
            else:
                coarse = middle
        keys = cells(coarse)
    else:
        keys = cells(fine)
    _, cluster = np.unique(keys, return_inverse=True)
    cluster = cluster.reshape(-1)
    count = np.bincount(cluster)
    vertices = np.stack([np.bincount(cluster, mesh.vertices[:, axis]) / count for axis in range(3)], axis=1)
    faces = cluster[mesh.faces]
    keep = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    # Of equal triangles one is enough; the same corners in the other direction are the other side.
    turned = np.stack([np.roll(row, -shift, axis=0) for shift, row in enumerate([faces.T] * 3)], axis=0)
    canonical = turned[faces.argmin(axis=1), :, np.arange(len(faces))]
    _, first = np.unique(canonical, axis=0, return_index=True)
    unique = np.zeros(len(faces), dtype=bool)
    unique[first] = True
    keep &= unique
    if keep.sum() < 4:
        return mesh
    texcoords, corners = _cluster_texcoords(mesh, cluster)
    return _compact(Mesh(vertices, faces[keep], texcoords, corners[keep]))


def _weld(mesh: Mesh) -> Mesh:
    """Give vertices at the same place one index."""
    vertices, index = np.unique(np.round(mesh.vertices, 7), axis=0, return_inverse=True)
    return Mesh(vertices, index.reshape(-1)[mesh.faces], mesh.texcoords, mesh.corners)


def _facing(mesh: Mesh) -> np.ndarray:
    """Which of the six axis directions each vertex's normal is nearest to, int of shape (V,)."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)  # as long as twice the area, so that large triangles count more
    sums = np.stack(
        [
            np.bincount(mesh.faces.reshape(-1), np.repeat(normals[:, axis], 3), minlength=len(mesh.vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    axis = np.abs(sums).argmax(axis=1)
    return axis * 2 + (sums[np.arange(len(sums)), axis] < 0)


def _cluster_texcoords(mesh: Mesh, cluster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates for merged vertices: means over those corners of a cluster that hang together.

    Two corners hang together if edges inside the cluster lead from one to the other without crossing a seam
    of the texture. Where a texture is cut open (around a bowl), both sides of the cut lie in one cluster and
    far apart in the texture; their mean would be somewhere else altogether.
    """
    if not len(mesh.texcoords):
        return mesh.texcoords, mesh.corners
    _, welded = np.unique(np.round(mesh.texcoords, 5), axis=0, return_inverse=True)
    corners = welded.reshape(-1)[mesh.corners].astype(np.int64)  # (F, 3)
    where = cluster[mesh.faces].astype(np.int64)  # (F, 3)
    _, node = np.unique(where * (int(corners.max()) + 1) + corners, return_inverse=True)
    node = node.reshape(-1, 3)
    sides = ((0, 1), (1, 2), (2, 0))
    ends = np.concatenate([node[where[:, one] == where[:, other]][:, [one, other]] for one, other in sides])
    count = int(node.max()) + 1
    graph = csr_matrix((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, island = connected_components(graph, directed=False)
    group = island[node].reshape(-1)
    values = mesh.texcoords[mesh.corners].reshape(-1, 2)
    size = np.bincount(group)
    means = np.stack([np.bincount(group, values[:, axis]) / size for axis in range(2)], axis=1)
    return means, group.reshape(-1, 3)


def with_normals(mesh: Mesh) -> tuple[Mesh, np.ndarray]:
    """The same triangles with a unit normal for each vertex, (V, 3), vertices at edges doubled.

    A corner's normal is the mean over the triangles at its vertex, weighted by area, that face within 50
    degrees of the corner's own. Left to itself MuJoCo would take the mean over all of them, and a box would
    shade like a cushion.
    """
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    areas = np.cross(b - a, c - a)  # as long as twice the area
    lengths = np.linalg.norm(areas, axis=1, keepdims=True)
    facing = areas / np.where(lengths > 0, lengths, 1.0)
    touching: list[list[int]] = [[] for _ in range(len(mesh.vertices))]
    for face, corners in enumerate(mesh.faces):
        for vertex in corners:
            touching[vertex].append(face)
    normals = np.empty((len(mesh.faces), 3, 3))
    for vertex, faces in enumerate(touching):
        near = (facing[faces] @ facing[faces].T > _CREASE) | np.eye(len(faces), dtype=bool)
        sums = near @ areas[faces]
        size = np.linalg.norm(sums, axis=1, keepdims=True)
        means = np.where(size > 0, sums / np.where(size > 0, size, 1.0), [0.0, 0.0, 1.0])
        for face, normal in zip(faces, means, strict=True):
            normals[face, mesh.faces[face] == vertex] = normal
    keys = np.concatenate([mesh.faces.reshape(-1, 1), np.round(normals.reshape(-1, 3), 5)], axis=1)
    _, first, corner = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    vertices = mesh.vertices[mesh.faces.reshape(-1)[first]]
    split = Mesh(vertices, corner.reshape(-1, 3), mesh.texcoords, mesh.corners)
    return split, normals.reshape(-1, 3)[first]


def _compact(mesh: Mesh) -> Mesh:
    """Drop the vertices and texture coordinates that no triangle uses."""
    used, faces = np.unique(mesh.faces, return_inverse=True)
    vertices, faces = mesh.vertices[used], faces.reshape(-1, 3)
    if not len(mesh.texcoords):
        return Mesh(vertices, faces, mesh.texcoords, np.zeros_like(faces))
    used, corners = np.unique(mesh.corners, return_inverse=True)
    return Mesh(vertices, faces, mesh.texcoords[used], corners.reshape(-1, 3))


def light_mesh(file: str, scale: np.ndarray, max_vertices: int, cache: Path) -> Mesh:
    """The decimated mesh of a file, from the cache where it is there."""
    digest = hashlib.sha256(Path(file).read_bytes())
    digest.update(f"{np.asarray(scale).tolist()} {max_vertices} v4".encode())
    path = cache / f"{digest.hexdigest()[:24]}.npz"
    try:
        with np.load(path, allow_pickle=False) as data:
            return Mesh(data["vertices"], data["faces"], data["texcoords"], data["corners"])
    except NPZ_ERRORS:
        pass  # absent or damaged: made again below
    mesh = decimate(load_mesh(file, scale), max_vertices)
    atomic_write(path, lambda handle: np.savez(handle, **vars(mesh)))
    return mesh


def light_texture(file: str, max_pixels: int, cache: Path) -> str:
    """The path of a copy of an image whose longer side is at most ``max_pixels``, or of the image itself."""
    import cv2

    image = cv2.imread(file, cv2.IMREAD_UNCHANGED)
    if image is None or max(image.shape[:2]) <= max_pixels:
        return file
    digest = hashlib.sha256(Path(file).read_bytes())
    digest.update(f"{max_pixels} v1".encode())
    path = cache / f"{digest.hexdigest()[:24]}.png"
    if not path.exists():
        factor = max_pixels / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".png", small)[1].tobytes()
        atomic_write(path, lambda handle: handle.write(data))
    return str(path)


def lighten(spec: mujoco.MjSpec, max_vertices: int, max_pixels: int, cache: Path) -> None:
    """Replace the meshes and textures that are only looked at by lighter ones, in place."""
    solid = {geom.meshname for geom in spec.geoms if geom.contype or geom.conaffinity or geom.group == 0}
    for item in spec.meshes:
        if item.name in solid or not item.file:
            continue
        mesh, normals = with_normals(light_mesh(item.file, item.scale, max_vertices, cache))
        item.file = ""
        item.scale = np.ones(3)
        item.uservert = mesh.vertices.astype(np.float32).reshape(-1).tolist()
        item.userface = mesh.faces.astype(np.int32).reshape(-1).tolist()
        item.usernormal = normals.astype(np.float32).reshape(-1).tolist()
        if len(mesh.texcoords):
            item.usertexcoord = mesh.texcoords.astype(np.float32).reshape(-1).tolist()
            item.userfacetexcoord = mesh.corners.astype(np.int32).reshape(-1).tolist()
    for texture in spec.textures:
        if texture.file:
            texture.file = light_texture(texture.file, max_pixels, cache)
    for material in spec.materials:
        material.reflectance = 0.0
