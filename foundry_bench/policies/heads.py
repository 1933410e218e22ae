"""Action heads: what loss trains the expert, and how a chunk is drawn from it.

Shapes: B batch, R draws, K horizon, A action dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from foundry_bench.policies import chance
from foundry_bench.policies.action_expert import ActionExpert
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.diffusion import Diffusion
from foundry_bench.policies.language import KeyValue
from foundry_bench.policies.token_expert import TokenExpert
from foundry_bench.policies.token_head import TokenHead


class Head(Protocol):
    """A loss and a sampler over the same expert.

    ``expert`` is what ``make_expert`` makes for this head. A head whose loss is a mean over something else
    than real actions has ``weight(actions_BKA, mask_BK) -> float``: what it divides by.
    """

    def loss(
        self,
        expert: Any,
        prefix: Sequence[KeyValue],
        actions_BKA: Tensor,
        mask_BK: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean training loss over the actions that ``mask_BK`` marks as real."""
        ...

    def sample(self, expert: Any, prefix: Sequence[KeyValue], noise_BKA: Tensor) -> Tensor:
        """Normalised chunks (B, K, A)."""
        ...


class FlowHead:
    """Flow matching along straight lines from noise (time 0) to the action (time 1).

    Several draws of noise and time share one pass of the backbone; their times are stratified, one in each
    of R equal intervals, which lowers the variance of the gradient.
    """

    def __init__(self, steps: int, draws: int) -> None:
        self.steps, self.draws = steps, draws

    def loss(
        self,
        expert: ActionExpert,
        prefix: Sequence[KeyValue],
        actions_BKA: Tensor,
        mask_BK: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean squared error of the predicted velocity."""
        batch, horizon, dim = actions_BKA.shape
        shape = (batch, self.draws, horizon, dim)
        noise = chance.randn(shape, generator).to(actions_BKA.device)
        offset_BR = chance.rand((batch, self.draws), generator)
        time_BR = ((torch.arange(self.draws) + offset_BR) / self.draws).to(actions_BKA.device)
        target = actions_BKA[:, None] - noise
        noisy = torch.addcmul(noise, target, time_BR[:, :, None, None])
        velocity = expert(prefix, noisy, time_BR)
        error = (velocity - target).square().mean(dim=(1, 3))
        return masked_mean(error, mask_BK)

    def sample(self, expert: ActionExpert, prefix: Sequence[KeyValue], noise_BKA: Tensor) -> Tensor:
        """Euler integration; the last step ends exactly at time 1 whatever the number of steps."""
        x = noise_BKA[:, None]
        for step in range(self.steps):
            start, end = step / self.steps, (step + 1) / self.steps
            time = torch.full(x.shape[:2], start, device=x.device, dtype=x.dtype)
            x = x + (end - start) * expert(prefix, x, time)
        return x[:, 0]


class DiffusionHead:
    """Denoising diffusion with the same expert: trained as DDPM, sampled as DDIM.

    As with flow matching, several draws of noise and stratified steps share one pass of the backbone.
    """

    def __init__(self, diffusion: Diffusion, draws: int) -> None:
        self.diffusion, self.draws = diffusion, draws

    def loss(
        self,
        expert: ActionExpert,
        prefix: Sequence[KeyValue],
        actions_BKA: Tensor,
        mask_BK: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean squared error of what is predicted (the noise, or v)."""
        batch, horizon, dim = actions_BKA.shape
        noise = chance.randn((batch, self.draws, horizon, dim), generator).to(actions_BKA.device)
        steps_BR = self.diffusion.draw_steps(batch, self.draws, generator).to(actions_BKA.device)
        clean = actions_BKA[:, None].expand_as(noise).flatten(0, 1)
        noise, steps = noise.flatten(0, 1), steps_BR.flatten()
        noisy = self.diffusion.noised(clean, noise, steps).unflatten(0, steps_BR.shape)
        target = self.diffusion.target(clean, noise, steps).unflatten(0, steps_BR.shape)
        predicted = expert(prefix, noisy, self.diffusion.time(steps_BR))
        error = (predicted - target).square().mean(dim=(1, 3))
        return masked_mean(error, mask_BK)

    def sample(self, expert: ActionExpert, prefix: Sequence[KeyValue], noise_BKA: Tensor) -> Tensor:
        """DDIM from the given noise, which is all the chance there is."""

        def network(x_BKA: Tensor, step: int) -> Tensor:
            time = self.diffusion.time(torch.full((len(x_BKA), 1), step, device=x_BKA.device))
            return expert(prefix, x_BKA[:, None], time)[:, 0]

        return self.diffusion.sample(network, noise_BKA)


class RegressionHead:
    """L1 regression of the chunk from learned queries: one pass of the expert, no noise."""

    def loss(
        self,
        expert: ActionExpert,
        prefix: Sequence[KeyValue],
        actions_BKA: Tensor,
        mask_BK: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean absolute error."""
        del generator
        error = (expert(prefix, None, None)[:, 0] - actions_BKA).abs().mean(dim=2)
        return masked_mean(error, mask_BK)

    def sample(self, expert: ActionExpert, prefix: Sequence[KeyValue], noise_BKA: Tensor) -> Tensor:
        """The regressed chunk; the noise is not looked at."""
        del noise_BKA
        return expert(prefix, None, None)[:, 0]


def masked_mean(error_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """Mean over the marked entries."""
    weight = mask_BK.to(error_BK.dtype)
    return (error_BK * weight).sum() / weight.sum().clamp(min=1)


def make_head(config: VLAConfig) -> Head:
    """The head that ``config.head`` names."""
    if config.head == "flow":
        return FlowHead(config.euler_steps, config.flow_draws)
    if config.head == "diffusion":
        diffusion = Diffusion(config.diffusion_steps, config.denoising_steps, config.prediction)
        return DiffusionHead(diffusion, config.flow_draws)
    if config.head == "tokens":
        return TokenHead()
    return RegressionHead()


def make_expert(
    config: VLAConfig, *, heads: int, head_size: int, layers: int, kv_heads: int | None = None
) -> ActionExpert | TokenExpert:
    """The expert of ``config.head``, for a backbone of so many heads, layers and numbers in a head."""
    if config.head == "tokens":
        count = config.horizon * config.action_dim
        return TokenExpert(
            vocabulary=config.action_vocab,
            length=count if config.action_tokenizer == "bins" else count + 1,
            width=config.expert_width,
            hidden=config.expert_hidden,
            heads=heads,
            head_size=head_size,
            layers=layers,
            kv_heads=kv_heads,
        )
    return ActionExpert(
        action_dim=config.action_dim,
        horizon=config.horizon,
        width=config.expert_width,
        hidden=config.expert_hidden,
        heads=heads,
        head_size=head_size,
        layers=layers,
        timed=config.head in ("flow", "diffusion"),
        kv_heads=kv_heads,
    )
