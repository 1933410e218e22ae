"""Action heads: what loss trains the expert, and how a chunk is drawn from it.

Shapes: B batch, R draws, K horizon, A action dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from foundry_bench.policies import chance
from foundry_bench.policies.action_expert import ActionExpert
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.language import KeyValue


class Head(Protocol):
    """A loss and a sampler over the same expert."""

    def loss(
        self,
        expert: ActionExpert,
        prefix: Sequence[KeyValue],
        actions_BKA: Tensor,
        mask_BK: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean training loss over the actions that ``mask_BK`` marks as real."""
        ...

    def sample(self, expert: ActionExpert, prefix: Sequence[KeyValue], noise_BKA: Tensor) -> Tensor:
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
    return RegressionHead()
