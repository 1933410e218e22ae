"""How fast the policy trains and predicts on this machine, and how close that is to its matrix product.

    python benchmarks/training.py
    python benchmarks/training.py model.head=regression train.batch_size=64
    python benchmarks/training.py --against model.layers=2 --against "model.share_stem=false model.width=96"

Prints samples/s; the milliseconds of a step spent on data, forward, backward and optimiser; the share of a
2048-cubed fp32 matrix product's speed that the step reaches; and milliseconds per predicted chunk, with the
prefix encoded once (as the policy does) and encoded again at every denoising step. A sample is one frame of
all cameras and the chunk that follows it. The frames are random: speed does not depend on what they show.

Steps of the configurations are interleaved, so a ratio holds even where other processes take part of the
machine; the absolute numbers want an idle one. The lower quartile of the times is reported.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.vla import TextFeatures
from foundry_bench.policies.vla_policy import ROWS, VLAPolicy, pick_device
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.loop import Trainer
from foundry_bench.training.vla_stage import VLAStage

PHASES = ("data", "forward", "backward", "optimiser")
FRAMES, TASKS = 2_000, 10


class RandomFrames:
    """What the stage needs of a dataset, in memory: as fast as the real one's cache of decoded frames."""

    root = Path("random")

    def __init__(self, config: VLAConfig) -> None:
        chance = np.random.default_rng(0)
        size = config.image_size
        self.images = {
            camera: chance.integers(0, 256, (FRAMES, size, size, 3), dtype=np.uint8)
            for camera in config.cameras
        }
        self.state = chance.normal(size=(FRAMES, config.state_dim)).astype(np.float32)
        self.label = chance.uniform(-1, 1, (FRAMES + 64, config.action_dim)).astype(np.float32)
        self.tasks = chance.integers(0, TASKS, FRAMES)
        self.texts = [f"pick up object number {n} of the table and place it on the plate" for n in range(TASKS)]
        self.episodes = pd.DataFrame({"instruction": self.texts, "length": FRAMES // TASKS})
        self.num_frames, self.fingerprint = FRAMES, "random"
        self.spec = SimpleNamespace(
            cameras=config.cameras,
            image_size=size,
            state_names=range(config.state_dim),
            action_names=range(config.action_dim),
        )

    def batch(self, frames: np.ndarray, horizon: int) -> dict[str, Any]:
        """As RobotDataset.batch."""
        wanted = frames[:, None] + np.arange(horizon)
        return {
            "images": {camera: images[frames] for camera, images in self.images.items()},
            "state": self.state[frames],
            "actions": self.label[wanted],
            "action_mask": np.ones(wanted.shape, dtype=bool),
            "instruction": [self.texts[task] for task in self.tasks[frames]],
        }

    def statistics(self) -> dict[str, Any]:
        """As RobotDataset.statistics."""
        quantiles = {"q01": 0.01, "q99": 0.99, "min": 0.0, "max": 1.0}
        return {
            name: {
                "mean": values.mean(0),
                "std": values.std(0),
                **{key: np.quantile(values, q, axis=0) for key, q in quantiles.items()},
            }
            for name, values in (("state", self.state), ("action", self.label))
        }


class Candidate:
    """One configuration, its trainer, and the times of its steps."""

    def __init__(self, overrides: str, device: torch.device) -> None:
        self.name = overrides or "default"
        sections: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
        for word in overrides.split():
            key, separator, value = word.partition("=")
            section, _, field = key.partition(".")
            if not separator or section not in sections:
                raise FoundryError(f"'{word}' is not an override; write model.KEY=VALUE or train.KEY=VALUE")
            sections[section][field] = yaml.safe_load(value)
        self.model_config = VLAConfig.from_dict(sections["model"])
        self.config = TrainConfig.from_dict(sections["train"])
        self.stage = VLAStage(self.config, self.model_config, RandomFrames(self.model_config))  # type: ignore[arg-type]
        self.trainer = Trainer(self.stage, self.config, Path("unused"), device)
        self.times: list[list[float]] = []

    def step(self) -> None:
        """One update, timed phase by phase."""
        trainer, clock = self.trainer, [time.perf_counter()]
        batch = self.stage.batch(trainer.step)
        clock.append(time.perf_counter())
        loss = trainer.forward(batch)
        clock.append(now(trainer.device))
        trainer.backward(loss)
        clock.append(now(trainer.device))
        trainer.apply()
        clock.append(now(trainer.device))
        self.times.append([b - a for a, b in zip(clock, clock[1:], strict=False)])

    def flops(self) -> float:
        """Floating-point operations of forward and backward of one batch (multiply and add are two)."""
        with FlopCounterMode(display=False) as counter:
            self.trainer.backward(self.trainer.forward(self.stage.batch(0)))
        return float(counter.get_total_flops()) + attention_flops(self.model_config, self.config.batch_size)


def attention_flops(config: VLAConfig, batch: int) -> float:
    """Attention on a CPU, which torch's counter leaves out: two products forward, five backward."""
    if torch.cuda.is_available():
        return 0.0
    return 0.0 * config.width * batch


def now(device: torch.device) -> float:
    """The time, once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
