"""Denoising diffusion: one noise schedule, of which both training and sampling are made.

Shapes: B batch, R draws, K horizon, A action dimension, T steps of the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from foundry_bench.policies import chance
from foundry_bench.policies.normalization import LIMIT

#: Our word for what the network predicts -> the library's.
_PREDICTIONS = {"v": "v_prediction", "epsilon": "epsilon"}


class Diffusion:
    """The squared-cosine schedule of T steps, through the schedulers of ``diffusers``.

    Non-obvious behaviours: training noises actions with a DDPM scheduler, and the DDIM scheduler that
    samples is made from that scheduler's own config, so the two cannot disagree. DDIM adds no noise of its
    own: a chunk is a function of the noise it starts from. With ``v`` the visited steps begin where the
    schedule is noisiest, so any number of them works; with ``epsilon`` they are those of Diffusion Policy,
    which wants ten or so. The library is loaded when it is first used.

    Args:
        steps: T, of the schedule.
        sample_steps: how many of them a sample visits; divides ``steps``.
        prediction: ``v``, or ``epsilon``, the noise.
    """

    def __init__(self, steps: int, sample_steps: int, prediction: str) -> None:
        self.steps, self.sample_steps, self.prediction = steps, sample_steps, prediction

    @cached_property
    def training(self) -> Any:
        """The scheduler that noises actions."""
        from diffusers import DDPMScheduler

        with torch.inference_mode(False):  # its tables are for training too, whoever asks first
            return DDPMScheduler(
                num_train_timesteps=self.steps,
                beta_schedule="squaredcos_cap_v2",
                prediction_type=_PREDICTIONS[self.prediction],
                clip_sample=True,
                clip_sample_range=LIMIT,
            )

    @cached_property
    def sampling(self) -> Any:
        """The scheduler that samples, of the same schedule, with its steps laid out."""
        from diffusers import DDIMScheduler

        spacing = "trailing" if self.prediction == "v" else "leading"
        with torch.inference_mode(False):
            scheduler = DDIMScheduler.from_config(self.training.config, timestep_spacing=spacing)
            scheduler.set_timesteps(self.sample_steps)
        return scheduler

    def draw_steps(self, batch: int, draws: int, generator: torch.Generator) -> Tensor:
        """Steps (B, R) of the schedule, one from each of R equal parts of it."""
        share_BR = (torch.arange(draws) + chance.rand((batch, draws), generator)) / draws
        return (share_BR * self.steps).long().clamp(max=self.steps - 1)

    def noised(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Actions (N, K, A) with the noise of steps (N,)."""
        return self.training.add_noise(clean, noise, steps)

    def target(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """What the network is to predict from ``noised`` of the same."""
        if self.prediction == "epsilon":
            return noise
        return self.training.get_velocity(clean, noise, steps)

    def sample(self, network: Callable[[Tensor, int], Tensor], noise: Tensor) -> Tensor:
        """Denoised actions, shaped as ``noise``; ``network`` maps (noisy actions, step) to its prediction."""
        x = noise
        for step in self.sampling.timesteps.tolist():
            x = self.sampling.step(network(x, step), step, x, eta=0.0).prev_sample
        return x

    def time(self, steps: Tensor) -> Tensor:
        """Steps as times in [0, 1)."""
        return steps.float() / self.steps
