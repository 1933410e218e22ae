"""A small untrained policy and its checkpoint, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.policies.checkpoint import Checkpoint, save_checkpoint
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.normalization import Normalizer
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.policies.vla import VLA
from foundry_bench.policies.vla_policy import VLAPolicy

TEXTS = ["pick up the bowl and place it on the plate", "open the drawer", "turn on the stove"]
SMALL = VLAConfig(
    image_size=48,
    width=64,
    layers=2,
    hidden=96,
    expert_width=48,
    expert_hidden=64,
    stem_channels=(16, 24, 32),
)


def statistics(size: int) -> dict[str, np.ndarray]:
    """Statistics of a feature spread evenly over [-1, 1]."""
    one = np.ones(size)
    return {"mean": 0 * one, "std": 0.6 * one, "min": -one, "max": one, "q01": -0.98 * one, "q99": 0.98 * one}


def parts(config: VLAConfig, seed: int = 0) -> tuple[VLA, Normalizer, TextTokenizer]:
    """An untrained model whose outputs are not tiny, with its scaling and tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VLA(config)
    torch.nn.init.normal_(model.expert.output.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    normalizer = Normalizer.fit(
        {"state": statistics(config.state_dim), "action": statistics(config.action_dim)},
        config.state_normalization,
        config.action_normalization,
    )
    return model, normalizer, TextTokenizer.train(TEXTS, config.vocab_size, config.text_tokens)


def observations(config: VLAConfig, count: int, seed: int = 0) -> dict[str, Any]:
    """Random but valid observations."""
    chance = np.random.default_rng(seed)
    size = config.image_size
    images = {c: chance.integers(0, 256, (count, size, size, 3), dtype=np.uint8) for c in config.cameras}
    state = chance.normal(size=(count, config.state_dim)).astype(np.float32)
    return {**images, "state": state, "instruction": [TEXTS[row % len(TEXTS)] for row in range(count)]}


@pytest.fixture(scope="session", params=["flow", "regression"])
def policy(request: pytest.FixtureRequest) -> VLAPolicy:
    """An untrained policy with each head."""
    from dataclasses import replace

    return VLAPolicy(*parts(replace(SMALL, head=request.param)), device="cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint folder of an untrained policy."""
    model, normalizer, tokenizer = parts(SMALL)
    about = {"train": {"samples": 1}, "data": {"episodes": 2, "frames": 3, "fingerprint": "f" * 16}}
    save_checkpoint(
        tmp_path / "checkpoint", Checkpoint(SMALL, model.state_dict(), normalizer, tokenizer, about)
    )
    return tmp_path / "checkpoint"
