"""Action tokens: chunks come back within half a bin or a rounding, and any tokens decode to a valid chunk."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_tokens import (
    ActionTokenizer,
    fit_action_tokenizer,
    fit_range,
    hold_last,
    read_action_tokenizer,
)
from foundry_bench.policies.config import VLAConfig
from tests.policies.conftest import smooth_chunks

BINS = VLAConfig(head="tokens", action_tokenizer="bins", action_vocab=128)
DCT = VLAConfig(head="tokens", action_tokenizer="dct", action_vocab=512)
CHUNKS = smooth_chunks(BINS, 600)
REAL = np.ones(CHUNKS.shape[:2], dtype=bool)
FITTED: dict[str, Any] = {c.action_tokenizer: fit_action_tokenizer(c, CHUNKS, REAL) for c in (BINS, DCT)}
CONFIGS = {"bins": BINS, "dct": DCT}


def round_trip(tokenizer: ActionTokenizer, chunks: np.ndarray) -> np.ndarray:
    tokens, _ = tokenizer.encode(chunks, np.ones(chunks.shape[:2], dtype=bool))
    return tokenizer.decode(tokens)


def test_bins_come_back_within_half_a_bin() -> None:
    tokenizer = FITTED["bins"]
    inside = np.clip(CHUNKS, tokenizer.low, tokenizer.high)
    error = np.abs(round_trip(tokenizer, CHUNKS) - inside)
    assert (error <= (tokenizer.high - tokenizer.low) / 128 / 2 + 1e-6).all()


def test_cosines_come_back_to_the_rounding() -> None:
    tokenizer = FITTED["dct"]
    inside = np.clip(CHUNKS, tokenizer.low, tokenizer.high)
    error = round_trip(tokenizer, CHUNKS) - inside
    # The transform keeps lengths: rounding a coefficient by r on average moves the chunk by r on average.
    assert np.sqrt((error**2).mean()) < 0.5 / tokenizer.scale
    assert np.abs(error).max() <= 0.5 / tokenizer.scale * 8**0.5 + 1e-6


def test_smooth_chunks_become_short_sequences_of_tokens() -> None:
    _, mask = FITTED["dct"].encode(CHUNKS, REAL)
    assert mask.sum(axis=1).mean() < 0.5 * 8 * 7
    assert FITTED["dct"].vocab_size == 512


values = st.floats(-6, 6, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, min_size=56, max_size=56), st.sampled_from(["bins", "dct"]))
def test_any_chunk_comes_back_as_its_clipped_self(numbers: list[float], kind: str) -> None:
    tokenizer = FITTED[kind]
    chunk = np.array(numbers, dtype=np.float32).reshape(1, 8, 7)
    inside = np.clip(chunk, tokenizer.low, tokenizer.high)
    bound = 2.0 / 128 if kind == "bins" else 0.5 / tokenizer.scale * 8**0.5
    assert np.abs(round_trip(tokenizer, chunk) - inside).max() <= bound + 1e-5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-5, 1200), max_size=80), st.sampled_from(["bins", "dct"]))
def test_any_tokens_decode_to_something_within_the_range(ids: list[int], kind: str) -> None:
    tokenizer = FITTED[kind]
    chunk = tokenizer.decode(np.array([ids], dtype=np.int64).reshape(1, -1))
    assert chunk.shape == (1, 8, 7)
    assert chunk.dtype == np.float32
    assert (chunk >= tokenizer.low - 1e-6).all()
    assert (chunk <= tokenizer.high + 1e-6).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["bins", "dct"]))
def test_what_is_decoded_is_a_fixed_point(seed: int, kind: str) -> None:
    """Encoding a decoded chunk changes nothing any more, unless clipping moved it."""
    tokenizer = FITTED[kind]
    once = round_trip(tokenizer, 0.5 * smooth_chunks(BINS, 1, seed))
    if (once > tokenizer.low).all() and (once < tokenizer.high).all():
        np.testing.assert_allclose(round_trip(tokenizer, once), once, atol=1e-5)


def test_an_action_that_is_not_real_says_nothing() -> None:
    mask = REAL[:5].copy()
    mask[:, 3:] = False
    changed = CHUNKS[:5].copy()
    changed[:, 3:] = 0.123
    for tokenizer in FITTED.values():
        ours, learned = tokenizer.encode(CHUNKS[:5], mask)
        theirs, _ = tokenizer.encode(changed, mask)
        assert (ours[learned] == theirs[learned]).all()
    held = hold_last(CHUNKS[:5], mask)
    np.testing.assert_array_equal(held[:, 3:], np.repeat(CHUNKS[:5, 2:3], 5, axis=1))
    _, learned = FITTED["bins"].encode(CHUNKS[:5], mask)
    assert learned.sum(axis=1).tolist() == [21] * 5


def test_the_range_forgets_outliers_but_not_a_rare_gripper() -> None:
    chance = np.random.default_rng(0)
    table = chance.uniform(-1, 1, (10_000, 4)).astype(np.float32)
    table[0, 0] = 80.0
    table[:, 1] = -1.0
    table[:20, 1] = 1.0
    table[:, 2] = 0.4
    low, high = fit_range(table)
    assert 0.9 < high[0] < 1.0
    assert (low[1], high[1]) == (-1, 1)
    assert low[2] < 0.4 < high[2]
    assert high[2] - low[2] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("kind", ["bins", "dct"])
def test_the_tokenizer_survives_its_file(kind: str) -> None:
    text = FITTED[kind].to_json()
    again = read_action_tokenizer(text, CONFIGS[kind])
    assert again.to_json() == text
    for ours, theirs in zip(FITTED[kind].encode(CHUNKS, REAL), again.encode(CHUNKS, REAL), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    tokens, _ = again.encode(CHUNKS, REAL)
    np.testing.assert_array_equal(FITTED[kind].decode(tokens), again.decode(tokens))


def test_merges_do_not_depend_on_order_or_process() -> None:
    assert fit_action_tokenizer(DCT, CHUNKS[::-1].copy(), REAL).to_json() == FITTED["dct"].to_json()
    code = "import sys; from tests.policies.test_action_tokens import FITTED\n"
    code += "sys.stdout.write(FITTED['dct'].to_json())"
    other = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert other.stdout == FITTED["dct"].to_json()


def test_a_vocabulary_too_small_for_the_coefficients_is_refused() -> None:
    with pytest.raises(FoundryError, match=r"model\.action_vocab=16 has no room for \d+ values"):
        fit_action_tokenizer(replace(DCT, action_vocab=16), CHUNKS, REAL)


def damaged(which: str, /, **change: Any) -> str:
    return json.dumps({**json.loads(FITTED[which].to_json()), **change})


@pytest.mark.parametrize(
    ("text", "config", "words"),
    [
        ("{", BINS, "is not an action tokenizer"),
        ("[]", BINS, "is not an action tokenizer"),
        (damaged("bins", kind="fast"), BINS, "is not an action tokenizer"),
        (damaged("bins", low=[0.0] * 7, high=[0.0] * 7), BINS, "unusable range"),
        (damaged("bins", low=[float("nan")] * 7), BINS, "unusable range"),
        (damaged("bins", low=[-1.0] * 6, high=[1.0] * 6), BINS, "action_dim=6, the model wants"),
        (damaged("bins", bins=0), BINS, "is not an action tokenizer"),
        (damaged("bins"), DCT, "action_tokenizer=bins, the model wants model.action_tokenizer=dct"),
        (damaged("bins"), replace(BINS, horizon=4), "horizon=8, the model wants model.horizon=4"),
        (damaged("bins"), replace(BINS, action_vocab=64), "128 tokens, more than model.action_vocab=64"),
        (damaged("dct", bpe={}), DCT, "is not an action tokenizer"),
        (damaged("dct", limit=3), DCT, "tokens that are no coefficients"),
        (damaged("dct", scale=0.0), DCT, "is not an action tokenizer"),
    ],
)
def test_damaged_files_are_named(text: str, config: VLAConfig, words: str) -> None:
    with pytest.raises(FoundryError, match=words) as caught:
        read_action_tokenizer(text, config, "folder/action_tokenizer.json")
    assert "folder/action_tokenizer.json" in str(caught.value)
