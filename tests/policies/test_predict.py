"""predict: shapes, limits, and bits that depend on the row and its seed alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.base import RandomPolicy, ZeroPolicy, load_policy
from foundry_bench.policies.vla_policy import VLAPolicy
from tests.policies.conftest import NOISELESS, POLICIES, SMALL, observations


def pick(everything: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    return {
        key: [value[row] for row in rows] if isinstance(value, list) else value[rows]
        for key, value in everything.items()
    }


def test_chunks_have_the_contracts_shape_type_and_limits(policy: VLAPolicy) -> None:
    chunks = policy.predict(observations(SMALL, 5), range(5))
    assert chunks.shape == (5, SMALL.horizon, 7)
    assert chunks.dtype == np.float32
    assert np.abs(chunks).max() <= 1.0
    assert chunks.std() > 0.05


def test_a_row_has_the_same_bits_whatever_its_neighbours(policy: VLAPolicy) -> None:
    everything = observations(SMALL, 11)
    seeds = list(range(100, 111))
    together = policy.predict(everything, seeds)
    for rows in ([0], [10, 3], [7, 7, 7, 2, 5], list(range(10, -1, -1)), [4, 1, 9]):
        again = policy.predict(pick(everything, rows), [seeds[row] for row in rows])
        np.testing.assert_array_equal(again, together[rows])


def test_prediction_is_the_same_with_fewer_threads_to_rounding(policy: VLAPolicy) -> None:
    before = torch.get_num_threads()
    everything = observations(SMALL, 4)
    try:
        torch.set_num_threads(1)
        one = policy.predict(everything, range(4))
        torch.set_num_threads(2)
        two = policy.predict(everything, range(4))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_noise_comes_from_the_seeds_and_from_nowhere_else(policy: VLAPolicy) -> None:
    everything = observations(SMALL, 2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = policy.predict(everything, [1, 2])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    np.testing.assert_array_equal(policy.predict(everything, [1, 2]), first)
    other = policy.predict(everything, [1, 2**63 + 3])
    np.testing.assert_array_equal(other[0], first[0])
    noiseless = policy.model.config in [POLICIES[name] for name in NOISELESS]
    alike = [(policy.predict(everything, [1, seed])[1] == first[1]).all() for seed in range(10, 22)]
    assert all(alike) == noiseless  # a mixture of few modes may draw the same one twice, but not always


def test_every_input_matters(policy: VLAPolicy) -> None:
    everything = observations(SMALL, 1)
    base = policy.predict(everything, [0])
    for key in ("agentview", "wrist", "state", "instruction"):
        changed = dict(everything)
        if key == "instruction":
            changed[key] = ["close the microwave"]
        else:
            changed[key] = observations(SMALL, 1, seed=9)[key]
        assert np.abs(policy.predict(changed, [0]) - base).max() > 1e-4, key


def test_predict_leaves_no_gradient_and_weights_alone(policy: VLAPolicy) -> None:
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    policy.predict(observations(SMALL, 2), [0, 1])
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wrist": None}, "camera 'wrist'"),
        ({"wrist": np.zeros((2, 32, 32, 3), np.uint8)}, "protocol.image_size=48"),
        ({"agentview": np.zeros((2, 48, 48, 3), np.float32)}, "uint8"),
        ({"state": np.zeros((2, 9), np.float32)}, "states of 8"),
    ],
)
def test_observations_that_do_not_fit_are_refused(
    policy: VLAPolicy, change: dict[str, Any], words: str
) -> None:
    wrong = {key: value for key, value in {**observations(SMALL, 2), **change}.items() if value is not None}
    with pytest.raises(FoundryError, match=words):
        policy.predict(wrong, [0, 1])


def test_a_seed_for_each_row(policy: VLAPolicy) -> None:
    with pytest.raises(FoundryError, match="2 observations but 1 noise seeds"):
        policy.predict(observations(SMALL, 2), [0])


def test_scripted_policies_fit_every_protocol() -> None:
    everything = observations(SMALL, 3)
    zero, random = load_policy("zero"), load_policy("random")
    assert isinstance(zero, ZeroPolicy)
    assert isinstance(random, RandomPolicy)
    assert (zero.predict(everything, [1, 2, 3])[..., :6] == 0).all()
    chunks = random.predict(everything, [1, 2, 1])
    np.testing.assert_array_equal(chunks[0], chunks[2])
    assert np.abs(chunks[0] - chunks[1]).max() > 0.1
    assert np.abs(chunks).max() <= 1.0


def test_scripted_policies_need_no_torch() -> None:
    code = (
        "import sys, foundry_bench.policies.base as base\n"
        "base.load_policy('zero')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
