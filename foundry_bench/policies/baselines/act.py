"""ACT: a chunk is decoded by a transformer from the observation and a style variable (a CVAE), trained by L1.

After Zhao et al., "Learning fine-grained bimanual manipulation with low-cost hardware", arXiv 2304.13705,
at a size for a CPU. Differences: it is told the instruction (a token and the FiLM of the cameras' stems,
which are the VLA's own instead of ResNet-18s), blocks are pre-norm, there is no dropout, since all chance
in training comes from one generator, and chunks are not averaged over time, which is the runner's business.

Shapes: B batch, C cameras, K horizon, A action dimension, D width, Z numbers in the style variable.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundry_bench.policies import chance
from foundry_bench.policies.baselines.config import ACTConfig
from foundry_bench.policies.baselines.observation import Instructions, TextEncoder
from foundry_bench.policies.baselines.transformer import Decoder, Encoder
from foundry_bench.policies.heads import masked_mean
from foundry_bench.policies.language import init_linear
from foundry_bench.policies.vision import Stem


class StyleEncoder(nn.Module):
    """The style of a chunk: mean and log-variance of Z numbers. Only training knows the chunk."""

    def __init__(self, config: ACTConfig) -> None:
        super().__init__()
        width = config.width
        self.query = nn.Parameter(0.5 * torch.randn(width))
        self.state = nn.Linear(config.state_dim, width)
        self.input = nn.Linear(config.action_dim, width)
        self.position = nn.Parameter(0.5 * torch.randn(config.horizon, width))
        self.encoder = Encoder(width, config.heads, config.hidden, config.style_layers)
        self.output = nn.Linear(width, 2 * config.latent)
        for module in (self.state, self.input):
            init_linear(module)
        nn.init.normal_(self.output.weight, std=0.1 * width**-0.5)  # begins near the prior
        nn.init.zeros_(self.output.bias)

    def forward(self, state: Tensor, actions_BKA: Tensor, mask_BK: Tensor) -> tuple[Tensor, Tensor]:
        batch = len(actions_BKA)
        query_B1D = self.query.expand(batch, 1, -1)
        actions_BKD = self.input(actions_BKA) + self.position
        tokens = torch.cat([query_B1D, self.state(state)[:, None], actions_BKD], dim=1)
        known = torch.cat([mask_BK.new_ones(batch, 2), mask_BK], dim=1)
        # Full precision under autocast: exp(v) - 1 - v of a small v is lost in bfloat16.
        style_B2Z = self.output(self.encoder(tokens, known)[:, 0]).float()
        mean_BZ, log_variance_BZ = style_B2Z.chunk(2, dim=1)
        return mean_BZ, log_variance_BZ


class ACT(nn.Module):
    """See action_model.ActionModel; what is encoded is the observation as tokens, (B, tokens, D).

    Prediction takes the mean of the style's prior, zero, as published: it looks at no noise.
    """

    def __init__(self, config: ACTConfig) -> None:
        super().__init__()
        self.config = config
        self.head, self.assets = None, dict[str, str]()
        width, cameras = config.width, len(config.cameras)
        self.text = TextEncoder(config)
        self.stem = Stem(config.image_size, config.stem_channels, width, width, cameras)
        self.state = nn.Linear(config.state_dim, width)
        self.style = StyleEncoder(config)
        self.style_token = nn.Linear(config.latent, width)
        self.position = nn.Parameter(0.5 * torch.randn(3, width))  # says which token is text, state or style
        self.encoder = Encoder(width, config.heads, config.hidden, config.encoder_layers)
        self.step = nn.Parameter(0.5 * torch.randn(config.horizon, width))
        self.decoder = Decoder(width, config.heads, config.hidden, config.decoder_layers)
        self.output = nn.Linear(width, config.action_dim)
        for module in (self.state, self.style_token):
            init_linear(module)
        nn.init.normal_(self.output.weight, std=0.2 * width**-0.5)
        nn.init.zeros_(self.output.bias)

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> Instructions:
        """See ActionModel."""
        summary_UD = self.text(tokens_UT, mask_UT)
        return Instructions(summary_UD, self.stem.modulation(summary_UD))

    def encode(self, images: Tensor, state: Tensor, text: Instructions) -> Tensor:
        """See ActionModel."""
        known = torch.stack([text.summary, self.state(state)], dim=1) + self.position[:2]
        return torch.cat([known, self.stem(images, text.film)], dim=1)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """L1 of the chunk, and a weight times the style's divergence from its prior (summed).

        Both are means over the real actions, so that means of parts of a batch can be put together.
        """
        text = self.read_instructions(batch["tokens"], batch["token_mask"]).rows(batch["inverse"])
        tokens = self.encode(batch["images"], batch["state"], text)
        actions_BKA, mask_BK = batch["actions"], batch["action_mask"]
        mean_BZ, log_variance_BZ = self.style(batch["state"], actions_BKA, mask_BK)
        noise_BZ = chance.randn(mean_BZ.shape, generator).to(mean_BZ.device)
        predicted = self._decode(tokens, mean_BZ + noise_BZ * (0.5 * log_variance_BZ).exp())
        error = masked_mean((predicted - actions_BKA).abs().mean(dim=2), mask_BK)
        divergence_B = 0.5 * (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(dim=1)
        divergence = masked_mean(divergence_B[:, None].expand_as(mask_BK), mask_BK)
        return error + self.config.kl_weight * divergence

    def sample(self, encoded: Tensor, noise_BKA: Tensor) -> Tensor:
        """The chunk of the mean style."""
        return self._decode(encoded, noise_BKA.new_zeros(len(noise_BKA), self.config.latent))

    def _decode(self, tokens: Tensor, style_BZ: Tensor) -> Tensor:
        style_B1D = self.style_token(style_BZ)[:, None] + self.position[2]
        memory = self.encoder(torch.cat([style_B1D, tokens], dim=1))
        queries_BKD = self.step.expand(len(memory), -1, -1)
        return self.output(self.decoder(queries_BKD, memory))
