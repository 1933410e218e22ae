"""Diffusion Policy: a convolutional U-Net denoises the chunk, modulated by the observation.

After Chi et al., "Diffusion Policy: visuomotor policy learning via action diffusion", arXiv 2303.04137, at
a size for a CPU. Differences: it is told the instruction (a feature and the cameras' FiLM), the camera
encoders are a small residual network shared by all cameras instead of a ResNet-18 each, and it sees one
step of observation, since a policy here keeps nothing between calls.

Shapes: B batch, R draws, K horizon, A action dimension, W width of the condition.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundry_bench.policies import chance
from foundry_bench.policies.action_expert import time_features
from foundry_bench.policies.baselines.config import DiffusionPolicyConfig
from foundry_bench.policies.baselines.observation import Instructions, ObservationEncoder
from foundry_bench.policies.baselines.unet import ChunkUNet, TimeEncoder
from foundry_bench.policies.diffusion import Diffusion
from foundry_bench.policies.heads import masked_mean
from foundry_bench.policies.language import init_linear


class DiffusionPolicy(nn.Module):
    """See action_model.ActionModel; what is encoded is the observation's part of the condition, (B, W)."""

    def __init__(self, config: DiffusionPolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.head, self.assets = None, dict[str, str]()
        self.observation = ObservationEncoder(config)
        self.condition = nn.Linear((len(config.cameras) + 2) * config.width, config.condition_width)
        init_linear(self.condition)
        self.time = TimeEncoder(config.condition_width)
        self.unet = ChunkUNet(
            config.action_dim, config.unet_channels, config.unet_kernel, config.condition_width
        )
        self.diffusion = Diffusion(config.diffusion_steps, config.denoising_steps, config.prediction)

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> Instructions:
        """See ActionModel."""
        return self.observation.read_instructions(tokens_UT, mask_UT)

    def encode(self, images: Tensor, state: Tensor, text: Instructions) -> Tensor:
        """See ActionModel."""
        return self.condition(self.observation(images, state, text).flatten(1))

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Mean squared error of what is predicted, over several draws of noise and step for each sample."""
        text = self.read_instructions(batch["tokens"], batch["token_mask"]).rows(batch["inverse"])
        condition_BW = self.encode(batch["images"], batch["state"], text)
        actions_BKA, draws = batch["actions"], self.config.draws
        size, horizon, dim = actions_BKA.shape
        noise = chance.randn((size, draws, horizon, dim), generator).flatten(0, 1).to(actions_BKA.device)
        steps = self.diffusion.draw_steps(size, draws, generator).flatten().to(actions_BKA.device)
        clean = actions_BKA.repeat_interleave(draws, dim=0)
        noisy = self.diffusion.noised(clean, noise, steps)
        predicted = self._predict(noisy, condition_BW.repeat_interleave(draws, dim=0), steps)
        error = (predicted - self.diffusion.target(clean, noise, steps)).square().mean(dim=2)
        return masked_mean(error, batch["action_mask"].repeat_interleave(draws, dim=0))

    def sample(self, encoded: Tensor, noise_BKA: Tensor) -> Tensor:
        """DDIM from the given noise, which is all the chance there is."""

        def network(x_BKA: Tensor, step: int) -> Tensor:
            return self._predict(x_BKA, encoded, torch.full((len(x_BKA),), step, device=x_BKA.device))

        return self.diffusion.sample(network, noise_BKA)

    def _predict(self, noisy_NKA: Tensor, condition_NW: Tensor, steps_N: Tensor) -> Tensor:
        time_NW = self.time(time_features(self.diffusion.time(steps_N)))
        return self.unet(noisy_NKA, condition_NW + time_NW)
