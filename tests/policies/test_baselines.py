"""The parts of the baselines, their settings, and checkpoints of every kind of policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.architectures import CONFIGS, read_config
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.baselines.bc_transformer import BCTransformer
from foundry_bench.policies.baselines.config import ACTConfig, BCTransformerConfig, DiffusionPolicyConfig
from foundry_bench.policies.baselines.observation import spatial_softmax
from foundry_bench.policies.baselines.transformer import Encoder
from foundry_bench.policies.baselines.unet import ChunkUNet
from foundry_bench.policies.build import MODELS, make_model
from foundry_bench.policies.checkpoint import Checkpoint, checkpoint_hash, save_checkpoint
from foundry_bench.policies.vla_policy import VLAPolicy
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.optimizer import Optimizer
from tests.policies.conftest import POLICIES, observations, parts
from tests.policies.test_heads import batch_of

ABOUT = {"train": {"samples": 1}, "data": {"episodes": 2, "frames": 3, "fingerprint": "f" * 16}}


def saved(folder: Path, name: str) -> VLAPolicy:
    """Save an untrained policy; returns it."""
    config = POLICIES[name]
    model, normalizer, tokenizer = parts(config)
    save_checkpoint(
        folder, Checkpoint(config, model.state_dict(), normalizer, tokenizer, ABOUT, model.assets)
    )
    return VLAPolicy(model, normalizer, tokenizer, device="cpu")


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_loaded_policy_predicts_what_the_saved_one_did(tmp_path: Path, name: str) -> None:
    made = saved(tmp_path / "checkpoint", name)
    loaded = load_policy(tmp_path / "checkpoint", device="cpu")
    everything = observations(POLICIES[name], 3)
    np.testing.assert_array_equal(loaded.predict(everything, range(3)), made.predict(everything, range(3)))
    assert loaded.spec == POLICIES[name].spec()
    extra = {"action_tokenizer.json"} if name in ("bins", "dct") else set()
    names = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert names == {
        "config.yaml", "model.safetensors", "normalization.json", "tokenizer.json", "README.md", *extra,
    }  # fmt: skip
    assert POLICIES[name].architecture in (tmp_path / "checkpoint" / "README.md").read_text()


def test_the_action_tokenizer_belongs_to_the_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint", "dct")
    path = tmp_path / "checkpoint" / "action_tokenizer.json"
    before, text = checkpoint_hash(tmp_path / "checkpoint"), path.read_text()
    path.write_text(text.replace('"scale": 10.0', '"scale": 11.0'))
    assert checkpoint_hash(tmp_path / "checkpoint") != before
    path.write_text(text[: len(text) // 2])
    with pytest.raises(FoundryError, match=r"action_tokenizer\.json is not an action tokenizer"):
        load_policy(tmp_path / "checkpoint")
    path.unlink()
    with pytest.raises(FoundryError, match=r"cannot read .*action_tokenizer\.json"):
        load_policy(tmp_path / "checkpoint")


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint", "act")
    path = tmp_path / "checkpoint" / "config.yaml"
    path.write_text(path.read_text().replace("architecture: act", "architecture: atc"))
    with pytest.raises(FoundryError, match=r"model\.architecture='atc' is unknown: did you mean 'act'"):
        load_policy(tmp_path / "checkpoint")


def test_every_architecture_has_a_config_and_a_model_of_its_size() -> None:
    assert set(CONFIGS) == set(MODELS)
    for architecture, cls in CONFIGS.items():
        config = read_config({"architecture": architecture})
        assert type(config) is cls
        assert read_config(config.to_dict()) == config
        count = sum(parameter.numel() for parameter in make_model(config).parameters())
        assert 1.0e6 < count < 2.0e6


@pytest.mark.parametrize(
    ("architecture", "change", "words"),
    [
        ("act", {"latnt": 3}, "did you mean 'latent'"),
        ("act", {"latent": 0}, "model.latent=0"),
        ("act", {"kl_weight": -1.0}, "model.kl_weight=-1.0"),
        ("act", {"head": "flow"}, "model.head='flow'"),
        ("act", {"width": 100}, "model.width=100"),
        ("act", {"stem_channels": [8, 12, 16]}, "three multiples of 8"),
        ("act", {"stem_channels": [8, 0, 16]}, "three multiples of 8"),
        ("bc_transformer", {"head": "gm"}, "did you mean 'gmm'"),
        ("bc_transformer", {"modes": 0}, "model.modes=0"),
        ("bc_transformer", {"image_size": 8}, "too small"),
        ("bc_transformer", {"cameras": []}, "at least one camera"),
        ("diffusion_policy", {"horizon": 7}, "model.horizon=7 cannot be halved 1 times"),
        ("diffusion_policy", {"unet_kernel": 4}, "model.unet_kernel=4 must be odd"),
        ("diffusion_policy", {"unet_channels": [64, 100]}, "multiples of 8"),
        ("diffusion_policy", {"denoising_steps": 30}, "does not divide"),
        ("diffusion_policy", {"prediction": "x0"}, "model.prediction='x0'"),
        ("diffusion_policy", {"action_normalization": "none"}, "model.action_normalization"),
        ("diffusion", {}, "did you mean 'diffusion_policy'"),
    ],
)
def test_settings_that_cannot_be_are_refused(architecture: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        read_config({"architecture": architecture, **change})


def test_a_keypoint_lies_where_its_channel_is_bright() -> None:
    features = torch.zeros(2, 3, 9, 5)
    features[0, 0, 0, 4] = features[0, 1, 8, 2] = features[1, 2, 4, 0] = 100.0
    points = spatial_softmax(features, torch.ones(()))
    rows, columns = points[:, :3], points[:, 3:]
    expected_rows = torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected_columns = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    torch.testing.assert_close(rows, expected_rows, atol=1e-5, rtol=0)
    torch.testing.assert_close(columns, expected_columns, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("levels", "horizon"), [(1, 5), (2, 8), (3, 8), (3, 16)])
def test_the_unet_keeps_the_length_of_any_chunk_that_can_be_halved(levels: int, horizon: int) -> None:
    torch.manual_seed(0)
    net = ChunkUNet(7, (16, 24, 32)[:levels], kernel=5, condition=12)
    out = net(torch.randn(3, horizon, 7), torch.randn(3, 12))
    assert out.shape == (3, horizon, 7)


def test_masked_tokens_are_not_seen() -> None:
    torch.manual_seed(0)
    encoder = Encoder(width=16, heads=2, hidden=24, layers=2)
    x, mask = torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(encoder(x, mask)[:, :4], encoder(changed, mask)[:, :4])
    torch.testing.assert_close(encoder(x, mask)[:, :4], encoder(x[:, :4]), atol=1e-5, rtol=1e-4)


def test_the_kl_term_has_its_weight_and_prediction_takes_the_mean_style() -> None:
    config = POLICIES["act"]
    assert isinstance(config, ACTConfig)
    losses = []
    for weight in (0.0, 1.0, 3.0):
        model, _, tokenizer = parts(replace(config, kl_weight=weight))
        losses.append(model.loss(batch_of(config, tokenizer), torch.Generator().manual_seed(0)).item())
    assert losses[1] - losses[0] > 0.01
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-4)


@pytest.mark.parametrize("name", ["act", "bc_transformer"])
def test_logarithms_and_exponentials_are_not_taken_in_bfloat16(name: str) -> None:
    config = POLICIES[name]
    model, _, _ = parts(config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if isinstance(config, ACTConfig):
            actions, mask = torch.zeros(2, config.horizon, 7), torch.ones(2, config.horizon, dtype=torch.bool)
            found = model.style(torch.zeros(2, 8), actions, mask)
        else:
            found = model.mixture(torch.zeros(2, config.horizon, config.width))
    assert {each.dtype for each in found} == {torch.float32}


def mixture_of_three() -> BCTransformer:
    """A model whose mixture has weights 0.5, 0.3 and 0.2, and modes at -1, 0 and 1, whatever it sees."""
    torch.manual_seed(0)
    model = BCTransformer(BCTransformerConfig(modes=3, layers=1, action_dim=2))
    torch.nn.init.zeros_(model.output.weight)
    means, spreads = torch.tensor([-1.0, 0.0, 1.0]).repeat_interleave(2), torch.zeros(6)
    model.output.bias.data = torch.cat([means, spreads, torch.tensor([0.5, 0.3, 0.2]).log()])
    return model


def test_modes_are_drawn_by_their_weight_and_the_same_for_a_whole_chunk() -> None:
    model = mixture_of_three()
    noise = torch.randn(4000, 8, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        chunks = model.sample(torch.zeros(4000, 8, 128), noise)
    assert (chunks == chunks[:, :1, :1]).all()
    shares = [(chunks[:, 0, 0] == value).float().mean().item() for value in (-1.0, 0.0, 1.0)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_the_likelihood_is_that_of_the_mixture_over_chunks() -> None:
    model = mixture_of_three()
    generator = torch.Generator().manual_seed(0)
    batch = {
        "images": torch.randint(0, 256, (4, 2, 96, 96, 3), dtype=torch.uint8, generator=generator),
        "state": torch.randn(4, 8, generator=generator),
        "tokens": torch.zeros(1, 24, dtype=torch.long),
        "token_mask": torch.ones(1, 24, dtype=torch.bool),
        "inverse": torch.zeros(4, dtype=torch.long),
        "actions": torch.randn(4, 8, 2, generator=generator),
        "action_mask": torch.arange(8) < torch.tensor([[8], [8], [5], [1]]),
    }
    scale = float(np.log(2)) + 0.03
    modes = torch.distributions.Normal(torch.tensor([-1.0, 0.0, 1.0]), scale)
    total = 0.0
    for actions, mask in zip(batch["actions"], batch["action_mask"], strict=True):
        density = modes.log_prob(actions[mask].flatten()[:, None]).sum(dim=0)
        total -= torch.logsumexp(density + torch.tensor([0.5, 0.3, 0.2]).log(), dim=0).item()
    assert model.loss(batch, torch.Generator()).item() == pytest.approx(total / (22 * 2), rel=1e-4)


def test_the_unet_policy_notices_the_step_it_is_at() -> None:
    config = POLICIES["diffusion_policy"]
    assert isinstance(config, DiffusionPolicyConfig)
    model, _, _ = parts(config)
    noisy, condition = torch.randn(2, 8, 7), torch.randn(2, config.condition_width)
    early, late = (model._predict(noisy, condition, torch.full((2,), step)) for step in (3, 90))
    assert (early - late).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_tables_of_vectors_are_neither_decayed_nor_orthogonalised(name: str) -> None:
    model, _, _ = parts(POLICIES[name])
    others = {id(p) for p in Optimizer(model, TrainConfig(optimizer="muon")).param_groups[1]["params"]}
    layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
    tables = {
        key: parameter
        for path, module in model.named_modules()
        if not isinstance(module, layers)
        for key, parameter in module.named_parameters(prefix=path, recurse=False)
    }
    assert len(tables) > 3
    assert [key for key, parameter in tables.items() if id(parameter) not in others] == []
