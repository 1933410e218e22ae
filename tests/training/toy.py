"""A tiny in-memory stand-in for RobotDataset: two squares, the instruction names the one to go to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from foundry_bench.policies.config import VLAConfig
from foundry_bench.training.config import TrainConfig

SIZE, LENGTH = 32, 12
INSTRUCTIONS = ("go to the red square", "go to the blue square")
TINY = VLAConfig(
    image_size=SIZE,
    cameras=("agentview",),
    state_dim=3,
    action_dim=3,
    horizon=4,
    vocab_size=320,
    text_tokens=12,
    width=32,
    heads=2,
    layers=2,
    hidden=48,
    stem_channels=(16, 16, 32),
    expert_width=32,
    expert_hidden=48,
)
TINY_TRAIN = TrainConfig(samples=512, batch_size=16, warmup=64, save_every=128, log_every=64)


class ToyDataset:
    """Frames of episodes that stand still: the action points from the centre to the square that is named."""

    root = Path("toy")

    def __init__(self, episodes: int = 60, seed: int = 0) -> None:
        chance = np.random.default_rng(seed)
        count = episodes * LENGTH
        places = chance.integers(2, SIZE - 6, (count, 2, 2))
        self.images = np.full((count, SIZE, SIZE, 3), 110, np.uint8)
        self.images += chance.integers(0, 12, self.images.shape, dtype=np.uint8)
        for frame in range(count):
            for square, colour in enumerate(((220, 40, 40), (40, 40, 220))):
                y, x = places[frame, square]
                self.images[frame, y : y + 5, x : x + 5] = colour
        named = np.repeat(np.arange(episodes) % 2, LENGTH)
        target = places[np.arange(count), named] + 2.5
        direction = (target - SIZE / 2) / (SIZE / 2)
        self.label = np.column_stack([direction, np.sign(direction[:, 0] + 1e-9)]).astype(np.float32)
        self.state = chance.normal(size=(count, 3)).astype(np.float32)
        self.named = named
        self.episodes = pd.DataFrame(
            {
                "episode_index": range(episodes),
                "instruction": [INSTRUCTIONS[number % 2] for number in range(episodes)],
                "length": LENGTH,
            }
        )
        self.num_frames = count
        self.spec = SimpleNamespace(
            cameras=("agentview",), image_size=SIZE, state_names=("a", "b", "c"), action_names=("x", "y", "g")
        )
        self.fingerprint = hashlib.sha256(self.images.tobytes() + self.label.tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.num_frames

    def batch(self, frames: np.ndarray, horizon: int) -> dict[str, Any]:
        """As RobotDataset.batch; the label of a frame is the same for the whole chunk."""
        actions, mask = self.chunks(frames, horizon)
        return {
            "images": {"agentview": self.images[frames]},
            "state": self.state[frames],
            "actions": actions,
            "action_mask": mask,
            "instruction": [INSTRUCTIONS[number] for number in self.named[frames]],
        }

    def chunks(self, frames: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """As RobotDataset.chunks."""
        wanted = (frames % LENGTH)[:, None] + np.arange(horizon)
        return np.repeat(self.label[frames][:, None], horizon, axis=1), wanted < LENGTH

    def statistics(self) -> dict[str, Any]:
        """As RobotDataset.statistics."""
        return {"state": _statistics(self.state), "action": _statistics(self.label)}


def _statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "mean": values.mean(0),
        "std": values.std(0),
        "min": values.min(0),
        "max": values.max(0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }
