"""Body poses in and out of the MuJoCo XML that LIBERO and robomimic keep with each episode."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping

from foundry_bench.errors import FoundryError

_ROOT = "_main"  # LIBERO names the root body of an object NAME_main
_MAX_BYTES = 20_000_000


def body_poses(xml: str, where: str) -> dict[str, list[float]]:
    """Poses of the things that a simulator state does not hold, because they have no joint of their own.

    Args:
        xml: the model.
        where: what to call it in an error.

    Returns:
        Name -> position (3) and quaternion (4, w first) of every LIBERO object that stands still.

    Raises:
        FoundryError: not readable as XML, or a pose that is no numbers.
    """
    world = _parse(xml, where).find("worldbody")
    poses = {}
    for body in world if world is not None else ():
        name = body.get("name", "")
        if body.tag != "body" or not name.endswith(_ROOT) or any("joint" in child.tag for child in body):
            continue
        try:
            position = [float(x) for x in body.get("pos", "0 0 0").split()]
            quaternion = [float(x) for x in body.get("quat", "1 0 0 0").split()]
        except ValueError as error:
            raise FoundryError(f"{where}: the pose of body {name!r} is not numbers ({error})") from error
        if (len(position), len(quaternion)) != (3, 4):
            raise FoundryError(f"{where}: body {name!r} has a pose of another size than 3 and 4 numbers")
        poses[name.removesuffix(_ROOT)] = position + quaternion
    return poses


def with_poses(xml: str, poses: Mapping[str, list[float]]) -> str:
    """The model with its still bodies at other poses; names it does not have are ignored."""
    root = _parse(xml, "the simulator's model")
    for body in root.iter("body"):
        pose = poses.get(body.get("name", "").removesuffix(_ROOT))
        if pose is not None and body.get("name", "").endswith(_ROOT):
            body.set("pos", " ".join(map(repr, map(float, pose[:3]))))
            body.set("quat", " ".join(map(repr, map(float, pose[3:]))))
    return ET.tostring(root, encoding="unicode")


def _parse(xml: str, where: str) -> ET.Element:
    # Without a document type there are no entities to expand, which is how XML becomes a bomb.
    if len(xml) > _MAX_BYTES or "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise FoundryError(f"{where}: not a MuJoCo model: it is too long or declares entities")
    try:
        return ET.fromstring(xml)  # noqa: S314
    except ET.ParseError as error:
        raise FoundryError(f"{where}: not readable as XML ({error})") from error
