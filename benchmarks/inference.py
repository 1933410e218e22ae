"""Milliseconds per predicted chunk of every head and baseline, with the observation encoded once and again.

    python benchmarks/inference.py
    python benchmarks/inference.py vla vla-diffusion model.denoising_steps=5
    python benchmarks/inference.py --device cuda --rows 4

A policy encodes what it sees once per chunk, and only what reads that (the action expert, the U-Net) runs
in every pass of a prediction. To tell what that is worth, the same prediction is timed again with the
images, the state and the instruction read before each pass, as a model without a cache of keys and values
would have to (action tokens already written stay cached). Weights and observations are random: speed does
not depend on them, except that the decoder of `vla-dct` ends when it writes its end mark, which an
untrained one may do late or never; its line is the longest that a chunk can take.

Repetitions of all policies are interleaved, so a ratio holds even where other processes take part of the
machine. The lower quartile of the times is reported.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from foundry_bench.configs.compose import compose, groups
from foundry_bench.errors import FoundryError
from foundry_bench.policies.action_tokens import fit_action_tokenizer
from foundry_bench.policies.build import give_action_tokenizer, make_model, needs_action_tokenizer
from foundry_bench.policies.vla_policy import ROWS, pick_device
from foundry_bench.sweeps import sections

#: The module that runs once in every pass of a prediction, by architecture; None: one pass only.
PASSES = {"vla": "expert.norm", "diffusion_policy": "unet.input", "act": None, "bc_transformer": None}
#: What is measured where nothing is named.
DEFAULT = (
    "vla", "vla-l1", "vla-diffusion", "vla-bins", "vla-dct", "vla-pooled",
    "diffusion_policy", "act", "bc_transformer",
)  # fmt: skip


class Candidate:
    """A model with random weights and observations, and the times of its predictions."""

    def __init__(self, name: str, overrides: Sequence[str], rows: int, device: torch.device) -> None:
        self.name = name
        config = self.config = sections.model_config(compose([f"model={name}", *overrides]))
        torch.manual_seed(0)
        self.model: Any = _model(config).to(device).eval()
        self.device = device
        chance = torch.Generator().manual_seed(0)
        size = (rows, len(config.cameras), config.image_size, config.image_size, 3)
        self.images = torch.randint(0, 256, size, dtype=torch.uint8, generator=chance).to(device)
        self.state = torch.randn((rows, config.state_dim), generator=chance).to(device)
        self.noise = torch.randn((rows, config.horizon, config.action_dim), generator=chance).to(device)
        self.tokens = torch.zeros((rows, config.text_tokens), dtype=torch.long, device=device)
        self.mask = torch.ones_like(self.tokens, dtype=torch.bool)
        with torch.inference_mode():
            self.text = self.model.read_instructions(self.tokens, self.mask)
        self.once: list[float] = []
        self.again: list[float] = []
        self.passes = 0

    def read(self) -> Any:
        """Everything that the passes need: the instruction is read, too, only where nothing is kept."""
        return self.model.encode(self.images, self.state, self.text)

    @torch.inference_mode()
    def predict(self) -> None:
        """One chunk per row, as the policy predicts it."""
        self.model.sample(self.read(), self.noise)

    @torch.inference_mode()
    def predict_without_cache(self) -> None:
        """The same, with the observation and the instruction read before every pass."""
        self.passes = 0

        def before(module: nn.Module, inputs: Any) -> None:
            self.passes += 1
            self.text = self.model.read_instructions(self.tokens, self.mask)
            if self.passes > 1:  # the first reading is the one below
                self.read()

        name = PASSES[self.config.architecture]
        if name is None:
            before(self.model, None)
            self.predict()
            return
        # The hook's own reading must not count as a pass: nothing but the passes calls this module.
        handle = self.model.get_submodule(name).register_forward_pre_hook(before)
        try:
            self.predict()
        finally:
            handle.remove()

    def measure(self) -> None:
        """Time both once."""
        for work, times in ((self.predict, self.once), (self.predict_without_cache, self.again)):
            times.append(self._timed(work))

    def _timed(self, work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start


def _model(config: Any) -> Any:
    """The model; where it needs an action tokenizer, with one fitted on random straight lines."""
    model = make_model(config)
    if not needs_action_tokenizer(config):
        return model
    chance = np.random.default_rng(0)
    start, slope = chance.uniform(-0.7, 0.7, (2, 2_000, 1, config.action_dim))
    chunks = (start + 0.4 * slope * np.linspace(0, 1, config.horizon)[:, None]).astype(np.float32)
    tokenizer = fit_action_tokenizer(config, chunks, np.ones(chunks.shape[:2], dtype=bool))
    give_action_tokenizer(model, tokenizer)
    return model


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", nargs="*", help="members of the model group, and KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=30.0, help="to measure, all together")
    parser.add_argument("--rows", type=int, default=ROWS, help="chunks predicted together")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    names = [word for word in arguments.words if "=" not in word]
    known = groups()["model"]
    for name in names:
        if name not in known:
            raise FoundryError(f"{name}: no such model, known: {', '.join(known)}")
    overrides = [word for word in arguments.words if "=" in word]
    device = pick_device(arguments.device)
    candidates = [Candidate(name, overrides, arguments.rows, device) for name in names or DEFAULT]
    for candidate in candidates:  # the first time is slower
        candidate.measure()
        candidate.once.clear()
        candidate.again.clear()
    end = time.perf_counter() + arguments.seconds
    while time.perf_counter() < end:
        for candidate in candidates:
            candidate.measure()
    print(f"{device}, {torch.get_num_threads()} threads, {arguments.rows} chunks at a time")
    print(f"{'model':18} {'M params':>8} {'passes':>6} {'ms/chunk':>9} {'without cache':>13} {'ratio':>6}")
    for candidate in candidates:
        once, again = (
            1e3 * float(np.quantile(times, 0.25)) / arguments.rows
            for times in (candidate.once, candidate.again)
        )
        count = sum(parameter.numel() for parameter in candidate.model.parameters()) / 1e6
        line = f"{candidate.name:18} {count:8.2f} {candidate.passes:6d} {once:9.2f}"
        print(f"{line} {again:13.2f} {again / once:6.2f}")


if __name__ == "__main__":
    main()
