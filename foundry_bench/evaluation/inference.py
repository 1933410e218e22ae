"""Asking the policy: does it fit the protocol, and is what it returns a chunk?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foundry_bench.errors import FoundryError
from foundry_bench.evaluation.protocol import Protocol
from foundry_bench.policies.base import Policy


@dataclass(frozen=True)
class PolicyFault:
    """Why a policy gave no usable chunk for one observation; one line."""

    cause: str


def check_fit(policy: Policy, protocol: Protocol, state_dim: int = 8, action_dim: int = 7) -> None:
    """Refuse a policy that was trained with something else than the protocol shows it.

    Args:
        policy: what is to be judged.
        protocol: how.
        state_dim, action_dim: sizes of a state and an action of the tasks it is judged on.

    Raises:
        FoundryError: naming every difference, both sides and the way out.
    """
    spec = policy.spec
    pairs: list[tuple[str, Any, Any]] = [
        ("state_dim", spec.state_dim, state_dim),
        ("action_dim", spec.action_dim, action_dim),
        ("state_convention", spec.state_convention, protocol.state_convention),
        ("action_convention", spec.action_convention, protocol.action_convention),
    ]
    if spec.cameras:  # a policy that looks at no camera has no image size either
        pairs.append(("image_size", spec.image_size, protocol.image_size))
    differences = [f"{name} {mine} against {theirs}" for name, mine, theirs in pairs if mine != theirs]
    missing = [camera for camera in spec.cameras if camera not in protocol.cameras]
    if missing:
        differences.append(f"cameras {', '.join(spec.cameras)} against {', '.join(protocol.cameras)}")
    if spec.horizon < protocol.replan:
        differences.append(f"chunks of {spec.horizon} actions against replan {protocol.replan}")
    if differences:
        raise FoundryError(
            f"policy '{policy.name}' does not fit protocol '{protocol.name}': {'; '.join(differences)} "
            "(policy against protocol); choose a matching checkpoint or set the protocol.* keys"
        )


def predict(
    policy: Policy, observations: Sequence[Mapping[str, Any]], noise_seeds: Sequence[int]
) -> list[np.ndarray | PolicyFault]:
    """Chunks for a batch of observations, each (horizon, action size), or what is wrong with that row.

    A batch that fails as a whole is asked again row by row, so that one bad observation does not cost its
    neighbours their episodes.
    """
    answer = _ask(policy, observations, noise_seeds)
    if not isinstance(answer, PolicyFault):
        return [_check_row(row) for row in answer]
    if len(observations) == 1:
        answer = _ask(policy, observations, noise_seeds)  # once more: it may have been out of memory
        return [answer if isinstance(answer, PolicyFault) else _check_row(answer[0])]
    singles: list[np.ndarray | PolicyFault] = []
    for observation, seed in zip(observations, noise_seeds, strict=True):
        single = _ask(policy, [observation], [seed])
        singles.append(single if isinstance(single, PolicyFault) else _check_row(single[0]))
    return singles


def _ask(
    policy: Policy, observations: Sequence[Mapping[str, Any]], noise_seeds: Sequence[int]
) -> np.ndarray | PolicyFault:
    spec = policy.spec
    batch: dict[str, Any] = {
        camera: np.stack([observation[camera] for observation in observations]) for camera in spec.cameras
    }
    batch["state"] = np.stack([observation["state"] for observation in observations]).astype(np.float32)
    batch["instruction"] = [str(observation["instruction"]) for observation in observations]
    try:
        chunks = np.asarray(policy.predict(batch, list(noise_seeds)))
    except Exception as error:  # whatever a policy raises is a fact about the policy, not about this run
        message = " ".join(str(error).split())[:300]
        return PolicyFault(f"policy raised {type(error).__name__}: {message}")
    wanted = (len(observations), spec.horizon, spec.action_dim)
    if chunks.shape != wanted:
        return PolicyFault(f"policy returned shape {chunks.shape} instead of {wanted}")
    if chunks.dtype.kind not in "fiu":
        return PolicyFault(f"policy returned {chunks.dtype} instead of numbers")
    return chunks


def _check_row(row: np.ndarray) -> np.ndarray | PolicyFault:
    if not np.isfinite(row).all():
        return PolicyFault("policy returned NaN or infinite actions")
    return row.astype(np.float32)
