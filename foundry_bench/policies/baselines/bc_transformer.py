"""BC-Transformer: cameras, state and instruction as tokens of a transformer; a mixture of Gaussians out.

After the ResNet-T of Liu et al., "LIBERO", arXiv 2306.03310, at a size for a CPU. Differences: theirs reads
the last ten observations and predicts one action; a policy here keeps nothing between calls and predicts a
chunk, so this one reads one observation and its tokens are followed by one learned query for each action of
the chunk. Each camera is one token, from a residual network with FiLM by the instruction, as theirs.

Shapes: B batch, K horizon, A action dimension, D width, M modes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_bench.policies.baselines.config import BCTransformerConfig
from foundry_bench.policies.baselines.observation import Instructions, ObservationEncoder
from foundry_bench.policies.baselines.transformer import Encoder
from foundry_bench.policies.heads import masked_mean

SMALLEST = 0.03  # standard deviation of a mode, in normalised units: a gripper of two values would have none


class BCTransformer(nn.Module):
    """See action_model.ActionModel; what is encoded is the actions' hidden states, (B, K, D).

    Non-obvious behaviours: the mixture is over whole chunks, since modes chosen action by action would mix;
    the noise of ``sample`` chooses the mode, by its weight, and the chunk is the mode's mean (robomimic's
    evaluation with low noise). With ``head=regression`` there is one mode, the loss is L1, and no noise is
    looked at.
    """

    def __init__(self, config: BCTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.head, self.assets = None, dict[str, str]()
        width, modes, dim = config.width, config.modes, config.action_dim
        self.observation = ObservationEncoder(config)
        self.position = nn.Parameter(0.5 * torch.randn(len(config.cameras) + 2, width))
        self.step = nn.Parameter(0.5 * torch.randn(config.horizon, width))
        self.encoder = Encoder(width, config.heads, config.hidden, config.layers)
        if config.head == "gmm":
            self.output = nn.Linear(width, 2 * modes * dim + modes)
        else:
            self.output = nn.Linear(width, dim)
        nn.init.normal_(self.output.weight, std=0.2 * width**-0.5)
        nn.init.zeros_(self.output.bias)

    def read_instructions(self, tokens_UT: Tensor, mask_UT: Tensor) -> Instructions:
        """See ActionModel."""
        return self.observation.read_instructions(tokens_UT, mask_UT)

    def encode(self, images: Tensor, state: Tensor, text: Instructions) -> Tensor:
        """See ActionModel."""
        seen = self.observation(images, state, text) + self.position
        queries_BKD = self.step.expand(len(seen), -1, -1)
        return self.encoder(torch.cat([seen, queries_BKD], dim=1))[:, -self.config.horizon :]

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Negative log-likelihood of the real actions, per number, in nats; or L1."""
        del generator
        text = self.read_instructions(batch["tokens"], batch["token_mask"]).rows(batch["inverse"])
        hidden_BKD = self.encode(batch["images"], batch["state"], text)
        actions_BKA, mask_BK = batch["actions"], batch["action_mask"]
        if self.config.head == "regression":
            return masked_mean((self.output(hidden_BKD) - actions_BKA).abs().mean(dim=2), mask_BK)
        log_weight_BM, mean, scale = self.mixture(hidden_BKD)
        distance = (actions_BKA[:, :, None] - mean) / scale
        log_density = (-0.5 * distance.square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(dim=3)
        chunk_BM = (log_density * mask_BK[:, :, None]).sum(dim=1)
        likelihood_B = torch.logsumexp(log_weight_BM + chunk_BM, dim=1)
        return -likelihood_B.sum() / (mask_BK.sum().clamp(min=1) * actions_BKA.shape[2])

    def mixture(self, hidden_BKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights (B, M), means (B, K, M, A) and standard deviations (B, K, M, A)."""
        modes = self.config.modes
        # Full precision under autocast: a scale's logarithm is lost in bfloat16. Every action has a vote.
        numbers, votes_BKM = self.output(hidden_BKD).float().tensor_split([-modes], dim=2)
        mean, spread = numbers.unflatten(-1, (2, modes, -1)).unbind(2)
        return votes_BKM.mean(dim=1).log_softmax(dim=1), mean, F.softplus(spread) + SMALLEST

    def sample(self, encoded: Tensor, noise_BKA: Tensor) -> Tensor:
        """The mean of one mode, or the regressed chunk."""
        if self.config.head == "regression":
            return self.output(encoded)
        log_weight_BM, mean, _ = self.mixture(encoded)
        # The sum of normal numbers is normal; its place in the distribution is an even draw from [0, 1].
        share_B = torch.special.ndtr(noise_BKA.sum(dim=(1, 2)) / noise_BKA[0].numel() ** 0.5)
        edges_BM = log_weight_BM.exp().cumsum(dim=1)
        chosen_B = (share_B[:, None] > edges_BM).sum(dim=1).clamp(max=self.config.modes - 1)
        return mean[torch.arange(len(mean), device=mean.device), :, chosen_B]
