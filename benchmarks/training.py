"""How fast the policy trains and predicts on this machine, and how close that is to its matrix product.

    python benchmarks/training.py
    python benchmarks/training.py model.head=regression train.batch_size=64
    python benchmarks/training.py --against model.layers=2 --against "model.share_stem=false model.width=96"

Prints samples/s; the milliseconds of a step spent on data, forward, backward and optimiser; the share of a
large fp32 matrix product's speed that the step reaches; and milliseconds per predicted chunk, with the
prefix encoded once (as the policy does) and encoded again at every denoising step. A sample is one frame of
all cameras and the chunk that follows it. The frames are random: speed does not depend on what they show.

Steps of the configurations are interleaved, so a ratio holds even where other processes take part of the
machine; the absolute numbers want an idle one. The lower quartile of the times is reported.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.vla_policy import ROWS, VLAPolicy, pick_device
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.throughput import count_flops, matmul_peak
from foundry_bench.training.trainer import Trainer
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
        self.texts = [
            f"pick up object number {n} of the table and place it on the plate" for n in range(TASKS)
        ]
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
        actions, mask = self.chunks(frames, horizon)
        return {
            "images": {camera: images[frames] for camera, images in self.images.items()},
            "state": self.state[frames],
            "actions": actions,
            "action_mask": mask,
            "instruction": [self.texts[task] for task in self.tasks[frames]],
        }

    def chunks(self, frames: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """As RobotDataset.chunks."""
        wanted = frames[:, None] + np.arange(horizon)
        return self.label[wanted], np.ones(wanted.shape, dtype=bool)

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
        trainer.clear()
        loss = trainer.forward(batch)
        clock.append(now(trainer.device))
        trainer.backward(loss)
        trainer.clip()
        clock.append(now(trainer.device))
        trainer.apply()
        clock.append(now(trainer.device))
        self.times.append([b - a for a, b in pairwise(clock)])

    def flops(self) -> float:
        """Floating-point operations of forward and backward of one batch (multiply and add are two)."""
        batch, trainer = self.stage.batch(0), self.trainer

        def step() -> None:
            trainer.clear()
            trainer.backward(trainer.forward(batch))

        return count_flops(trainer.stage.model, step)

    def chunk_ms(self) -> tuple[float, float]:
        """Milliseconds per predicted chunk, with the prefix encoded once and encoded at every step."""
        stage, config = self.stage, self.model_config
        policy = VLAPolicy(
            self.trainer.average.model,  # type: ignore[arg-type]
            stage.normalizer,
            stage.tokenizer,
            device=str(self.trainer.device),
        )
        raw = stage.dataset.batch(np.arange(ROWS), config.horizon)
        observations = {**raw["images"], "state": raw["state"], "instruction": raw["instruction"]}
        once = quartile([timed(lambda: policy.predict(observations, range(ROWS))) for _ in range(12)][2:])
        batch = stage.batch(0)
        model = policy.model
        with torch.inference_mode():
            text = model.read_instructions(
                batch["tokens"].to(policy.device), batch["token_mask"].to(policy.device)
            )
            rows = text.rows(batch["inverse"][:ROWS].to(policy.device))
            images, state = batch["images"][:ROWS].to(policy.device), batch["state"][:ROWS].to(policy.device)

            def encode() -> None:
                model.encode(images, state, rows)
                now(policy.device)

            prefix = quartile([timed(encode) for _ in range(12)][2:])
        passes = {
            "flow": config.euler_steps,
            "diffusion": config.denoising_steps,
            "tokens": config.horizon * config.action_dim,
        }
        steps = passes.get(config.head, 1)
        return 1e3 * once / ROWS, 1e3 * (once + (steps - 1) * prefix) / ROWS


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def quartile(seconds: list[float]) -> float:
    """The lower quartile: what an undisturbed run takes."""
    return float(np.quantile(seconds, 0.25))


def now(device: torch.device) -> float:
    """The time, once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="model.KEY=VALUE or train.KEY=VALUE")
    parser.add_argument("--against", action="append", default=[], help="another configuration, in quotes")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure, all configurations together")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    candidates = [Candidate(text, device) for text in (" ".join(arguments.overrides), *arguments.against)]
    for candidate in candidates:
        for _ in range(3):
            candidate.step()
        candidate.times.clear()
    end = time.perf_counter() + arguments.seconds
    while time.perf_counter() < end:
        for candidate in candidates:
            candidate.step()
    peak = matmul_peak(device)
    print(f"{device}, {torch.get_num_threads()} threads, large fp32 product {peak / 1e9:.0f} GFLOP/s")
    first = 0.0
    for candidate in candidates:
        rate = report(candidate, peak)
        if first:
            print(f"  {rate / first:.2f} times the samples/s of the first")
        first = first or rate


def report(candidate: Candidate, peak: float) -> float:
    """Print what was measured of a candidate; its samples/s."""
    size = candidate.config.batch_size
    total = quartile([sum(times) for times in candidate.times])
    parameters = sum(parameter.numel() for parameter in candidate.trainer.model.parameters())
    flops = candidate.flops()
    print(
        f"{candidate.name}: {parameters / 1e6:.2f} M parameters, batch {size}, {len(candidate.times)} steps"
    )
    print(
        f"  {size / total:.0f} samples/s, {flops / size / 1e6:.0f} MFLOP a sample, "
        f"{flops / total / 1e9:.0f} GFLOP/s = {100 * flops / total / peak:.0f} % of the product"
    )
    split = ", ".join(
        f"{phase} {1e3 * quartile([times[index] for times in candidate.times]):.1f}"
        for index, phase in enumerate(PHASES)
    )
    print(f"  {1e3 * total:.1f} ms a step: {split} (in training, data is prepared beside the rest)")
    once, again = candidate.chunk_ms()
    print(f"  {once:.1f} ms a chunk ({again:.1f} ms if the prefix were encoded at every denoising step)")
    return size / total


if __name__ == "__main__":
    main()
