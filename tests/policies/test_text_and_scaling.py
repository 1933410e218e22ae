"""Tokenizer and normalization: fixed lengths, exact round trips, dimensions that do not move."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.errors import FoundryError
from foundry_bench.policies.normalization import Normalizer, Scaling
from foundry_bench.policies.tokenizer import TextTokenizer
from tests.policies.conftest import TEXTS


def tokenizer(length: int = 16) -> TextTokenizer:
    return TextTokenizer.train(TEXTS, 400, length)


SHARED = tokenizer()


def test_every_text_has_the_same_length_and_an_end() -> None:
    ids, mask = tokenizer().encode([*TEXTS, ""])
    assert ids.shape == mask.shape == (4, 16)
    assert ids.dtype == np.int64
    assert (ids[~mask] == tokenizer().pad).all()
    assert [row[m][-1] for row, m in zip(ids, mask, strict=True)] == [tokenizer().end] * 4
    assert mask.sum(1).tolist() == [11, 4, 5, 1]  # a word is one token


def test_case_does_not_matter_and_words_do() -> None:
    ids, _ = tokenizer().encode(["Open the DRAWER", "open the drawer", "open the stove"])
    assert (ids[0] == ids[1]).all()
    assert (ids[1] != ids[2]).any()


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_can_be_encoded(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids, mask = SHARED.encode([text])
    assert ids.shape == (1, 16)
    assert ids.max() < 400
    assert mask.any()


def test_text_that_is_too_long_is_cut_with_one_warning() -> None:
    short = tokenizer(length=6)
    with pytest.warns(UserWarning, match=r"model\.text_tokens"):
        ids, mask = short.encode([TEXTS[0]])
    assert mask.all()
    assert ids[0, -1] == short.end
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short.encode([TEXTS[0]])


def test_training_does_not_depend_on_order_or_process() -> None:
    assert TextTokenizer.train(TEXTS[::-1] * 2, 400, 16).to_json() == tokenizer().to_json()
    code = (
        "import sys; from foundry_bench.policies.tokenizer import TextTokenizer;"
        f"sys.stdout.write(TextTokenizer.train({TEXTS!r}, 400, 16).to_json())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert other.stdout == tokenizer().to_json()


def test_the_tokenizer_survives_its_file() -> None:
    again = TextTokenizer.from_json(tokenizer().to_json(), 16)
    assert (again.encode(TEXTS)[0] == tokenizer().encode(TEXTS)[0]).all()
    with pytest.raises(FoundryError, match="no <pad> or <end>"):
        TextTokenizer.from_json(tokenizer().to_json().replace("<pad>", "<nothing>"), 16)


def statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "mean": values.mean(0),
        "std": values.std(0),
        "min": values.min(0),
        "max": values.max(0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }


def demonstration() -> np.ndarray:
    """Columns: spread, gripper of -1 and +1, a gripper that is hardly ever closed, constant, nearly so."""
    chance = np.random.default_rng(0)
    count = 2000
    rare = np.full(count, -1.0)
    rare[:5] = 1.0
    return np.column_stack(
        [
            chance.normal(0.3, 0.2, count),
            np.where(chance.random(count) < 0.5, -1.0, 1.0),
            rare,
            np.full(count, 0.7),
            0.2 + 1e-6 * chance.normal(size=count),
        ]
    )


@pytest.mark.parametrize("method", ["quantile", "minmax", "meanstd"])
def test_scaling_inverts_and_leaves_no_dimension_infinite(method: str) -> None:
    values = demonstration()
    scaling = Scaling.fit(statistics(values), method)
    normalised = scaling.apply(values)
    assert np.isfinite(normalised).all()
    assert np.abs(normalised[:, 3:]).max() < 0.01
    np.testing.assert_allclose(scaling.invert(normalised), values, atol=1e-5)


def test_quantiles_keep_the_gripper_at_plus_and_minus_one() -> None:
    scaling = Scaling.fit(statistics(demonstration()), "quantile")
    assert scaling.offset[1:3].tolist() == [0, 0]
    assert scaling.scale[1:3].tolist() == [1, 1]


def test_normalization_survives_its_file_bit_for_bit() -> None:
    stats = statistics(demonstration())
    normalizer = Normalizer.fit({"state": stats, "action": stats}, "meanstd", "quantile")
    again = Normalizer.from_json(normalizer.to_json())
    for ours, theirs in ((normalizer.state, again.state), (normalizer.action, again.action)):
        assert ours.method == theirs.method
        np.testing.assert_array_equal(ours.offset, theirs.offset)
        np.testing.assert_array_equal(ours.scale, theirs.scale)


@pytest.mark.parametrize("damage", ["negative", "ragged", "text", "nan"])
def test_unusable_scalings_are_refused(damage: str) -> None:
    stats = statistics(demonstration())
    entries = json.loads(Normalizer.fit({"state": stats, "action": stats}, "minmax", "minmax").to_json())
    scale = entries["action"]["scale"]
    if damage == "negative":
        scale[0] = -1.0
    elif damage == "ragged":
        scale.pop()
    elif damage == "text":
        scale[0] = "wide"
    else:
        scale[0] = float("nan")
    with pytest.raises(FoundryError, match=r"normalization\.json"):
        Normalizer.from_json(json.dumps(entries))
