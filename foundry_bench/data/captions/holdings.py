"""What lies in or on what: by LIBERO's own predicates, and "unclear" wherever geometry says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from foundry_bench.data.captions.facts import Holding
from foundry_bench.data.captions.names import HOLLOW, name_of
from foundry_bench.data.captions.randomise import Randomiser

_NEAR = 0.03  # metres between an object's middle and a place that it is certainly not in or on


class Holdings:
    """Finds holdings of one task's scenes.

    Args:
        randomiser: of the task.
        categories: LIBERO's category of every object and fixture.
    """

    def __init__(self, randomiser: Randomiser, categories: Mapping[str, str]) -> None:
        self._randomiser = randomiser
        self._env = randomiser.problem.env
        self._world = randomiser.world
        self._categories = categories
        self._regions: dict[str, list[str]] = {name: [] for name in categories}
        for site, region in self._env.object_sites_dict.items():
            if region.parent_name in self._regions:
                self._regions[region.parent_name].append(site)

    def now(self, present: Iterable[str]) -> tuple[list[Holding], list[tuple[str, str]]]:
        """What holds in the present state, among things that are there.

        Returns:
            Holdings, at most one for each pair; and the pairs (thing, place) that are neither certainly in or
            on one another nor certainly apart, the place empty for table or floor.
        """
        names = list(present)
        movable = [name for name in names if name in self._env.objects_dict]
        touching = self._contacts()
        clouds = {name: self._world.points(name) for name in names}
        holdings: list[Holding] = []
        unclear: list[tuple[str, str]] = []
        for thing in movable:
            held = False
            for place in names:
                if place == thing:
                    continue
                found = self._holding(thing, place, (thing, place) in touching)
                if found is not None:
                    holdings.append(found)
                    held = True
                elif (thing, place) in touching or self._over(thing, clouds[place]):
                    unclear.append((thing, place))
            alone = not any((thing, other) in touching for other in names)
            if (thing, "") in touching and alone and not held:
                holdings.append(Holding(thing, "on", ""))
            elif not held:
                unclear.append((thing, ""))
        return holdings, unclear

    def _holding(self, thing: str, place: str, touching: bool) -> Holding | None:
        if not touching:
            return None
        preposition = "in" if name_of(self._categories[place]).noun in HOLLOW else "on"
        for site in self._regions[place]:
            inside = self._inside(thing, site)
            if inside and self._env._eval_predicate(["in", thing, site]):
                part = next(
                    (p for p in self._randomiser.parts if site in p.regions and p.kind == "drawer"), None
                )
                if part is not None or "contain" in site or "heating" in site:
                    return Holding(thing, "in", place, part.name if part else "")
            if self._is_top(site) and self._env._eval_predicate(["on", thing, site]):
                return Holding(thing, "on", place)
        lies_on = place in self._env.objects_dict and self._env._eval_predicate(["on", thing, place])
        above = self._world.position(thing)[2] > self._world.points(place)[:, 2].min() + 0.004
        return Holding(thing, preposition, place) if lies_on and above else None

    def _is_top(self, site: str) -> bool:
        """Whether a region is the top of something: a cabinet's, a stove's, a rack's."""
        drawers = any(site in part.regions for part in self._randomiser.parts if part.kind != "knob")
        return not drawers and "contain" not in site and "heating" not in site

    def _inside(self, thing: str, site: str) -> bool:
        region = self._env.object_sites_dict[site]
        place = self._world.position(site), self._world.rotation(site)
        return bool(region.in_box(*place, self._world.position(thing)))

    def _over(self, thing: str, cloud: np.ndarray) -> bool:
        """Whether an object's middle is within some centimetres of a place, seen from above."""
        if not len(cloud):
            return False
        spot = self._world.position(thing)[:2]
        low, high = cloud[:, :2].min(axis=0) - _NEAR, cloud[:, :2].max(axis=0) + _NEAR
        return bool(((spot > low) & (spot < high)).all())

    def _contacts(self) -> set[tuple[str, str]]:
        """Pairs of things that touch, both ways round; "" is what is neither a thing nor the robot."""
        owner = {geom: name for name in self._categories for geom in self._randomiser.geoms_of(name)}
        robot = self._randomiser.robot_geoms
        data = self._randomiser.data
        pairs = set()
        for number in range(data.ncon):
            ends = [int(data.contact[number].geom1), int(data.contact[number].geom2)]
            if robot.intersection(ends):
                continue
            one, other = (owner.get(end, "") for end in ends)
            pairs |= {(one, other), (other, one)}
        return pairs
