"""A small untrained policy and its checkpoint, made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.policies.action_tokens import fit_action_tokenizer
from foundry_bench.policies.architectures import ModelConfig
from foundry_bench.policies.baselines.config import ACTConfig, BCTransformerConfig, DiffusionPolicyConfig
from foundry_bench.policies.build import ACTION_TOKENIZER, make_model, needs_action_tokenizer
from foundry_bench.policies.checkpoint import Checkpoint, save_checkpoint
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.normalization import Normalizer
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.policies.vla_policy import VLAPolicy
from tests.policies.tiny_models import FAMILY_NAMES, save_lm, save_vlm

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

_SMALL_BASELINE: dict[str, Any] = {
    "image_size": 48,
    "width": 64,
    "hidden": 96,
    "stem_channels": (16, 24, 32),
}
#: A small config of every kind of policy.
POLICIES: dict[str, ModelConfig] = {
    "flow": SMALL,
    "regression": replace(SMALL, head="regression"),
    "diffusion": replace(SMALL, head="diffusion"),
    "bins": replace(SMALL, head="tokens", action_vocab=64),
    "dct": replace(SMALL, head="tokens", action_tokenizer="dct"),
    "pooled": replace(SMALL, conditioning="pooled"),
    "diffusion_policy": DiffusionPolicyConfig(unet_channels=(32, 48), condition_width=64, **_SMALL_BASELINE),
    "act": ACTConfig(encoder_layers=2, **_SMALL_BASELINE),
    "bc_transformer": BCTransformerConfig(layers=2, **_SMALL_BASELINE),
    "bc_transformer_l1": BCTransformerConfig(layers=2, head="regression", **_SMALL_BASELINE),
}
#: Those that look at no noise.
NOISELESS = ("regression", "bins", "dct", "act", "bc_transformer_l1")


def statistics(size: int) -> dict[str, np.ndarray]:
    """Statistics of a feature spread evenly over [-1, 1]."""
    one = np.ones(size)
    return {"mean": 0 * one, "std": 0.6 * one, "min": -one, "max": one, "q01": -0.98 * one, "q99": 0.98 * one}


def smooth_chunks(config: ModelConfig, count: int, seed: int = 0) -> np.ndarray:
    """Normalised chunks (count, K, A): straight lines, but for a gripper of two values."""
    chance = np.random.default_rng(seed)
    start, slope = chance.uniform(-0.7, 0.7, (2, count, 1, config.action_dim))
    chunks = start + 0.4 * slope * np.linspace(0, 1, config.horizon)[:, None]
    chunks[..., -1] = np.sign(start[..., -1])
    return chunks.astype(np.float32)


def parts(
    config: ModelConfig, seed: int = 0, spread: float | None = 0.3
) -> tuple[Any, Normalizer, TextTokenizer]:
    """An untrained model with its scaling and tokenizer; ``spread`` keeps its outputs from being tiny."""
    assets = {}
    if needs_action_tokenizer(config):
        assert isinstance(config, VLAConfig)
        chunks = smooth_chunks(config, 200)
        fitted = fit_action_tokenizer(config, chunks, np.ones(chunks.shape[:2], dtype=bool))
        assets[ACTION_TOKENIZER] = fitted.to_json()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = make_model(config, assets)
    for name, parameter in model.named_parameters():
        if spread is not None and name.split(".")[-2:] == ["output", "weight"]:
            torch.nn.init.normal_(parameter, std=spread, generator=torch.Generator().manual_seed(1))
    normalizer = Normalizer.fit(
        {"state": statistics(config.state_dim), "action": statistics(config.action_dim)},
        config.state_normalization,
        config.action_normalization,
    )
    return model, normalizer, TextTokenizer.train(TEXTS, config.vocab_size, config.text_tokens)


def observations(config: ModelConfig, count: int, seed: int = 0) -> dict[str, Any]:
    """Random but valid observations."""
    chance = np.random.default_rng(seed)
    size = config.image_size
    images = {c: chance.integers(0, 256, (count, size, size, 3), dtype=np.uint8) for c in config.cameras}
    state = chance.normal(size=(count, config.state_dim)).astype(np.float32)
    return {**images, "state": state, "instruction": [TEXTS[row % len(TEXTS)] for row in range(count)]}


@pytest.fixture(scope="session", params=sorted(POLICIES))
def policy(request: pytest.FixtureRequest) -> VLAPolicy:
    """An untrained policy of every kind."""
    return VLAPolicy(*parts(POLICIES[request.param]), device="cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint folder of an untrained policy."""
    model, normalizer, tokenizer = parts(SMALL)
    about = {"train": {"samples": 1}, "data": {"episodes": 2, "frames": 3, "fingerprint": "f" * 16}}
    save_checkpoint(
        tmp_path / "checkpoint", Checkpoint(SMALL, model.state_dict(), normalizer, tokenizer, about)
    )
    return tmp_path / "checkpoint"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder per family, made once; tests that change one copy it."""
    root = tmp_path_factory.mktemp("models")
    made = {kind: save_vlm(root / kind, kind) for kind in FAMILY_NAMES}
    return {**made, "lm": save_lm(root / "lm")}
