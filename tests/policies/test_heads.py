"""Diffusion, tokens, what the expert reads: exact where arithmetic allows, learning where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_expert import ActionExpert, ExpertBlock
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.diffusion import Diffusion
from foundry_bench.policies.prefix import Prefix
from foundry_bench.policies.token_expert import TokenExpert
from foundry_bench.policies.vla import VLA
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.optimizer import Optimizer
from tests.policies.conftest import POLICIES, SMALL, TEXTS, parts, smooth_chunks

COUNT = 6


def batch_of(config: Any, tokenizer: Any) -> dict[str, torch.Tensor]:
    """One training batch of random images with chunks that have nothing to do with them."""
    generator = torch.Generator().manual_seed(3)
    size, cameras = config.image_size, len(config.cameras)
    tokens, mask = tokenizer.encode(TEXTS[:2])
    return {
        "images": torch.randint(
            0, 256, (COUNT, cameras, size, size, 3), dtype=torch.uint8, generator=generator
        ),
        "state": torch.randn(COUNT, config.state_dim, generator=generator),
        "tokens": torch.from_numpy(tokens),
        "token_mask": torch.from_numpy(mask),
        "inverse": torch.arange(COUNT) % 2,
        "actions": torch.from_numpy(smooth_chunks(config, COUNT, 5)),
        "action_mask": torch.ones(COUNT, config.horizon, dtype=torch.bool),
    }


def sample(model: Any, batch: dict[str, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        text = model.read_instructions(batch["tokens"], batch["token_mask"]).rows(batch["inverse"])
        return model.sample(model.encode(batch["images"], batch["state"], text), noise)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_learns_one_batch_by_heart(name: str) -> None:
    config = POLICIES[name]
    model, _, tokenizer = parts(config, spread=None)
    batch = batch_of(config, tokenizer)
    optimizer = Optimizer(model, TrainConfig(optimizer="muon"))
    losses = []
    for step in range(100):
        loss = model.loss(batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(3e-3 * min(1.0, (step + 1) / 10))
        losses.append(loss.item())
    first, last = np.mean(losses[:5]), np.mean(losses[-10:])
    assert last < (-1.0 if config.head == "gmm" else 0.25 * first)
    actions = batch["actions"]
    noise = torch.randn(actions.shape, generator=torch.Generator().manual_seed(9))
    if config.head == "gmm":
        noise.zero_()  # a mode of more than half the weight: the others are still being forgotten
    chunks = sample(model, batch, noise)
    error, spread = (chunks - actions).abs().mean(), (actions - actions.mean(dim=0)).abs().mean()
    assert error < 0.45 * spread


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_loss_comes_from_the_generator_alone_and_leaves_no_weight_out(name: str) -> None:
    model, _, tokenizer = parts(POLICIES[name])
    batch = batch_of(POLICIES[name], tokenizer)
    torch.manual_seed(0)
    first = model.loss(batch, torch.Generator().manual_seed(4))
    torch.manual_seed(1)
    assert torch.equal(first, model.loss(batch, torch.Generator().manual_seed(4)))
    first.backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"dct"}))
def test_actions_that_are_not_real_do_not_count(name: str) -> None:
    model, _, tokenizer = parts(POLICIES[name])
    batch = batch_of(POLICIES[name], tokenizer)
    batch["action_mask"][1, 3:] = False
    changed = dict(batch, actions=batch["actions"].clone())
    changed["actions"][1, 3:] = -0.9
    if name in ("flow", "pooled", "diffusion", "diffusion_policy"):
        # A noisy chunk shows all of its actions to all of them; only the error itself is masked.
        batch["action_mask"][1], changed["action_mask"] = False, batch["action_mask"]
        changed["actions"][1] = -0.9
    losses = [model.loss(each, torch.Generator().manual_seed(4)) for each in (batch, changed)]
    torch.testing.assert_close(losses[0], losses[1])


# Diffusion.


@pytest.mark.parametrize("sample_steps", [1, 2, 4, 5, 10, 20, 50, 100])
@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_ddim_lands_on_the_goal_of_a_network_that_knows_it(sample_steps: int, prediction: str) -> None:
    """The best possible prediction for a single goal is known in closed form."""
    diffusion = Diffusion(100, sample_steps, prediction)
    goal = torch.rand(3, 5, 7) * 2 - 1
    visited: list[int] = []

    def network(x: torch.Tensor, step: int) -> torch.Tensor:
        visited.append(step)
        kept = diffusion.training.alphas_cumprod[step].double()
        noise = ((x.double() - kept.sqrt() * goal) / (1 - kept).sqrt()).float()
        steps = torch.full((len(x),), step)
        return diffusion.target(goal, noise, steps)

    end = diffusion.sample(network, torch.randn(3, 5, 7))
    # One step of epsilon from where hardly any of the action is left divides by very little.
    torch.testing.assert_close(end, goal, atol=2e-3, rtol=0)
    assert len(visited) == sample_steps
    assert visited == sorted(visited, reverse=True)
    if prediction == "v":
        assert visited[0] == 99


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_noising_and_sampling_share_one_schedule(prediction: str) -> None:
    diffusion = Diffusion(40, 8, prediction)
    with torch.inference_mode():  # a policy asks first
        sampling = diffusion.sampling
    assert torch.equal(sampling.alphas_cumprod, diffusion.training.alphas_cumprod)
    for key in ("num_train_timesteps", "beta_schedule", "prediction_type", "clip_sample_range"):
        assert sampling.config[key] == diffusion.training.config[key]
    clean, noise = torch.randn(2, 64, 5, 7).clamp(-3, 3).unbind(0)
    steps = torch.full((64,), 17)
    noisy, target = diffusion.noised(clean, noise, steps), diffusion.target(clean, noise, steps)
    recovered = sampling.step(target, 17, noisy, eta=0.0).pred_original_sample
    torch.testing.assert_close(recovered, clean, atol=1e-4, rtol=1e-4)
    kept = diffusion.training.alphas_cumprod[17]
    torch.testing.assert_close(noisy, kept.sqrt() * clean + (1 - kept).sqrt() * noise)


def test_steps_are_drawn_from_every_part_of_the_schedule() -> None:
    steps = Diffusion(100, 10, "v").draw_steps(500, 4, torch.Generator().manual_seed(0))
    assert steps.shape == (500, 4)
    for part in range(4):
        assert steps[:, part].min() == 25 * part
        assert steps[:, part].max() == 25 * part + 24


# What an expert reads.


def test_grouped_queries_read_what_repeated_keys_and_values_would_give() -> None:
    torch.manual_seed(0)
    grouped = ExpertBlock(24, heads=6, size=8, hidden=32, kv_heads=2)
    full = ExpertBlock(24, heads=6, size=8, hidden=32)
    weights = dict(grouped.state_dict())
    q, k, v = weights["qkv.weight"].split([48, 16, 16])
    repeated = [part.unflatten(0, (2, 8)).repeat_interleave(3, dim=0).flatten(0, 1) for part in (k, v)]
    full.load_state_dict({**weights, "qkv.weight": torch.cat([q, *repeated])})
    x = torch.randn(3, 5, 24)
    prefix = torch.randn(3, 2, 11, 8), torch.randn(3, 2, 11, 8)
    many = tuple(part.repeat_interleave(3, dim=1) for part in prefix)
    torch.testing.assert_close(grouped(x, prefix, None), full(x, many, None))  # type: ignore[arg-type]
    with pytest.raises(FoundryError, match="6 heads cannot read 4 heads"):
        ExpertBlock(24, heads=6, size=8, hidden=32, kv_heads=4)


def action_expert(timed: bool = True) -> ActionExpert:
    torch.manual_seed(0)
    return ActionExpert(
        action_dim=7, horizon=5, width=24, hidden=32, heads=4, head_size=8, layers=2, timed=timed, kv_heads=2
    )


def token_expert() -> TokenExpert:
    torch.manual_seed(0)
    return TokenExpert(
        vocabulary=20, length=9, width=24, hidden=32, heads=4, head_size=8, layers=2, kv_heads=2
    )


def padded_prefix() -> tuple[list[tuple[torch.Tensor, torch.Tensor]], Prefix]:
    """A prefix of seven tokens, and the same among four of padding."""
    short = [(torch.randn(3, 2, 7, 8), torch.randn(3, 2, 7, 8)) for _ in range(2)]
    mask = torch.ones(3, 11, dtype=torch.bool)
    places = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [4, 5, 6, 7, 8, 9, 10], [0, 1, 3, 4, 6, 8, 10]])
    mask = torch.zeros(3, 11, dtype=torch.bool).scatter(1, places, True)
    long = []
    for kv in short:
        wide = [torch.full((3, 2, 11, 8), 50.0) for _ in range(2)]
        for part, room in zip(kv, wide, strict=True):
            for row in range(3):
                room[row, :, places[row]] = part[row]
        long.append((wide[0], wide[1]))
    return short, Prefix(long, mask)


@pytest.mark.parametrize("draws", [0, 1, 4])
def test_padding_of_the_prefix_is_not_read(draws: int) -> None:
    short, long = padded_prefix()
    model = action_expert(timed=draws > 0)
    actions, time = (torch.randn(3, draws, 5, 7), torch.rand(3, draws)) if draws else (None, None)
    expected = model(short, actions, time)
    torch.testing.assert_close(model(long, actions, time), expected, atol=1e-5, rtol=1e-4)
    unmasked = model(list(long), actions, time)
    assert (unmasked - expected).abs().max() > 1e-3


def test_padding_of_the_prefix_is_not_read_by_the_token_expert_either() -> None:
    short, long = padded_prefix()
    model = token_expert()
    tokens = torch.randint(0, 20, (3, 9))
    torch.testing.assert_close(model(long, tokens), model(short, tokens), atol=1e-5, rtol=1e-4)
    for prefix in (short, long):
        written = model.begin(prefix)
        logits = [model.write(written, n, tokens[:, n - 1] if n else None) for n in range(9)]
        torch.testing.assert_close(torch.stack(logits, dim=1), model(short, tokens), atol=1e-5, rtol=1e-4)


def test_a_token_sees_only_those_before_it() -> None:
    model, (short, _) = token_expert(), padded_prefix()
    tokens = torch.randint(0, 19, (3, 9))
    changed = tokens.clone()
    changed[:, 4] += 1
    before, after = model(short, tokens), model(short, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amax(dim=(0, 2)).min() > 1e-4


@pytest.mark.parametrize("name", ["bins", "dct"])
def test_decoding_takes_the_likeliest_token_of_the_uncached_pass(name: str) -> None:
    model, _, tokenizer = parts(POLICIES[name])
    batch = batch_of(POLICIES[name], tokenizer)
    with torch.no_grad():
        text = model.read_instructions(batch["tokens"], batch["token_mask"]).rows(batch["inverse"])
        prefix = model.encode(batch["images"], batch["state"], text)
        tokens = model.head.decode(model.expert, prefix)
        logits = model.expert(prefix, tokens)[..., : model.head.tokenizer.vocab_size]
    end = model.head.tokenizer.end
    for row in range(COUNT):
        ends = (tokens[row] == end).nonzero() if end is not None else []
        stop = int(ends[0]) + 1 if len(ends) else tokens.shape[1]
        assert torch.equal(logits[row, :stop].argmax(dim=-1), tokens[row, :stop])
    assert tokens.unique().numel() > 3


def test_pooled_conditioning_leaves_the_expert_one_token_and_its_size() -> None:
    pooled, full = VLA(replace(SMALL, conditioning="pooled")), VLA(SMALL)
    sizes = [sum(p.numel() for p in model.expert.parameters()) for model in (pooled, full)]
    assert sizes[0] == sizes[1]
    text = pooled.read_instructions(torch.zeros(1, 24, dtype=torch.long), torch.ones(1, 24, dtype=torch.bool))
    images = torch.zeros(1, 2, 48, 48, 3, dtype=torch.uint8)
    prefix = pooled.encode(images, torch.zeros(1, 8), text)
    assert [tuple(part.shape) for kv in prefix for part in kv] == [(1, 4, 1, 16)] * 4


# The default model, and values that are refused.


def test_the_default_model_has_the_weights_and_losses_it_always_had() -> None:
    """Three losses of two models, as they were before there was a choice of heads."""
    seen = {"flow": ["0x1.061b3p+1", "0x1.02194ep+1", "0x1.c612dap+0"],
            "regression": ["0x1.85185ep-1", "0x1.75659ep-1", "0x1.61188ep-1"]}  # fmt: skip
    for head, expected in seen.items():
        torch.manual_seed(0)
        model = VLA(VLAConfig(head=head))
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (6, 2, 96, 96, 3), dtype=torch.uint8, generator=generator)
        batch = {
            "images": images,
            "state": torch.randn(6, 8, generator=generator),
            "tokens": torch.randint(0, 300, (3, 24), generator=generator),
            "token_mask": torch.ones(3, 24, dtype=torch.bool),
            "inverse": torch.tensor([0, 1, 2, 0, 1, 2]),
            "actions": torch.randn(6, 8, 7, generator=generator),
            "action_mask": torch.ones(6, 8, dtype=torch.bool),
        }
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for step, value in enumerate(expected):
            loss = model.loss(batch, torch.Generator().manual_seed(step))
            assert loss.item() == pytest.approx(float.fromhex(value), rel=1e-4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_a_token_head_without_its_tokenizer_says_so() -> None:
    model = VLA(replace(SMALL, head="tokens"))
    prefix = [(torch.zeros(1, 4, 3, 16), torch.zeros(1, 4, 3, 16))] * 2
    with pytest.raises(FoundryError, match="has no action tokenizer"):
        model.sample(prefix, torch.zeros(1, 8, 7))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": "difusion"}, "did you mean 'diffusion'"),
        ({"conditioning": "pool"}, "did you mean 'pooled'"),
        ({"prediction": "x0"}, "model.prediction"),
        ({"action_tokenizer": "fast"}, "model.action_tokenizer"),
        ({"denoising_steps": 7}, "denoising_steps=7 does not divide model.diffusion_steps=100"),
        ({"denoising_steps": 0}, "model.denoising_steps=0"),
        ({"action_vocab": 2}, "from 4 to 65536"),
        ({"dct_scale": 0.0}, "model.dct_scale=0.0"),
        ({"architecture": "act"}, "model.architecture='act'"),
    ],
)
def test_settings_of_heads_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        VLAConfig.from_dict(change)


def test_cross_entropy_starts_at_that_of_an_even_guess() -> None:
    model, _, tokenizer = parts(POLICIES["bins"], spread=1e-4)
    loss = model.loss(batch_of(POLICIES["bins"], tokenizer), torch.Generator())
    even = F.cross_entropy(torch.zeros(1, 64), torch.tensor([0]))
    assert loss.item() == pytest.approx(even.item(), rel=1e-3)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_training_works_in_mixed_precision(name: str) -> None:
    """As on a GPU: the loss is near that of full precision, and every gradient is finite."""
    model, _, tokenizer = parts(POLICIES[name], spread=None)
    batch = batch_of(POLICIES[name], tokenizer)
    exact = model.loss(batch, torch.Generator().manual_seed(0)).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(batch, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(exact, rel=0.05)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
