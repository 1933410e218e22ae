"""Deliberate mistakes in demonstrations, so that who imitates them has seen a miss and the way back.

A policy trained on flawless grasps does not know that it can miss: it closes beside the object and carries
nothing to where the object belongs. Here the executed action makes the hand miss, while the label stays what
the expert would do, who sees it coming: let go, come back over the object, try again. It is DART's idea
(Laskey et al., 2017) with a disturbance that looks like the policy's own errors instead of a Gaussian.
"""

from __future__ import annotations

import numpy as np

from foundry_bench.envs.experts.expert import Expert

_FIRST, _LAST = 0, 7  # steps into a grasp at which it goes wrong
_PUSH_STEPS = (2, 5)  # how long the hand is pushed aside
_PUSH = (0.5, 1.0)  # and how hard, in units of an action
_CLOSED_STEPS = (6, 13)  # from the push on: a full swing of the fingers takes eight
_CARRY_STEPS = (4, 31)  # of carrying nothing, in half of the mistakes


class Mistake:
    """At most one mistake of one attempt.

    ``kind`` tells what happened: ``""`` nothing (yet), ``miss`` (closed beside the object) or ``carry``
    (and went on to the destination with nothing in the hand).

    Args:
        share: probability that the attempt has one.
        generator: decides everything; always asked for the same number of draws.
    """

    def __init__(self, share: float, generator: np.random.Generator) -> None:
        self.kind = ""
        chance, carries = generator.random(2)
        angle, strength = generator.uniform(0, 2 * np.pi), generator.uniform(*_PUSH)
        self._push = strength * np.array([np.cos(angle), np.sin(angle), generator.uniform(-0.4, 0.2)])
        self._wait = int(generator.integers(_FIRST, _LAST)) if chance < share else -1
        self._push_steps, self._closed_steps, carry_steps = (
            int(generator.integers(*bounds)) for bounds in (_PUSH_STEPS, _CLOSED_STEPS, _CARRY_STEPS)
        )
        self._carry_steps = carry_steps if carries < 0.5 else 0
        self._step = -1  # of the mistake, once it has begun

    def disturb(self, action: np.ndarray, expert: Expert) -> np.ndarray:
        """The action to execute instead of ``action``, (7,): the same unless the mistake is under way.

        It is over early when the object is between the fingers after all: the expert says to close, or both
        fingers touch it. Otherwise it would be carried off while the labels say to let go.
        """
        opened = action[6] < 0
        if self._step < 0:
            if self._wait < 0 or not (expert.grasping and opened):
                return action
            self._wait -= 1
            if self._wait >= 0:
                return action
            self.kind = "carry" if self._carry_steps else "miss"
        self._step += 1
        if (self._step >= self._push_steps and not opened) or expert.pinching:
            self._step = self._closed_steps + self._carry_steps
        if self._step < self._closed_steps:
            pushed = self._step < self._push_steps
            aside = self._push if pushed else np.zeros(3)
            return np.array([*aside, *action[3:6], 1.0])
        if self._step < self._closed_steps + self._carry_steps:
            carried = expert.carry_action()
            return np.array([*carried[:3], *action[3:6], 1.0])
        return action
