"""A text source that is real though small: sentences of colours, read by the VLA's own language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from foundry_bench.policies.losses import next_token_loss
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.policies.vla import VLA
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.loop import run
from foundry_bench.training.mixture import MixedStage, StageSource
from foundry_bench.training.order import generator
from foundry_bench.training.stage import Batch
from foundry_bench.training.state import load_state
from foundry_bench.training.vla_stage import VLAStage
from tests.training.toy import TINY, ToyDataset

COLOURS, THINGS = ("red", "blue", "green"), ("square", "circle", "cup")
TEXT = 0x7E87  # the use of chance in training.order: one that no other part of training has


class ColourText:
    """Next-token prediction on sentences of different lengths; the mean is over tokens, not padding."""

    name = "text"

    def __init__(self, config: TrainConfig, tokenizer: TextTokenizer) -> None:
        sentences = [f"the {c} {t} is {c}" + " and small" * (len(t) % 2) for c in COLOURS for t in THINGS]
        tokens, mask = TextTokenizer.from_json(tokenizer.to_json(), 32).encode(sentences)
        self.tokens, self.mask = torch.from_numpy(tokens), torch.from_numpy(mask)
        self.config = config

    def identity(self) -> Mapping[str, int]:
        return {"sentences": len(self.tokens)}

    def batch(self, number: int) -> Batch:
        chance = generator(self.config.seed, TEXT, number)
        rows = chance.integers(0, len(self.tokens), self.config.batch_size)
        return {"text": self.tokens[rows], "text_mask": self.mask[rows]}

    def weight(self, batch: Batch) -> float:
        return float(batch["text_mask"][:, 1:].sum())

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        assert isinstance(model, VLA)
        hidden, _ = model.language.read_text(batch["text"][:, :-1])
        logits = model.language.logits(hidden)
        return next_token_loss(logits, batch["text"][:, 1:], batch["text_mask"][:, 1:], self.config.z_loss)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        whole = {"text": self.tokens, "text_mask": self.mask}
        with torch.no_grad():
            return {"loss": float(self.loss(model, whole, torch.Generator()))}


def mixed_stage(config: TrainConfig, files: Mapping[str, str] | None = None) -> MixedStage:
    """The tiny VLA on robot batches and on text, two to one."""
    vla = VLAStage(config, TINY, ToyDataset(), files)  # type: ignore[arg-type]
    sources = [StageSource("robot", vla), ColourText(config, vla.tokenizer)]
    return MixedStage(vla, sources, {"robot": 2.0, "text": 1.0}, config.seed)


def train_mixed(config: TrainConfig, out: Path) -> Path:
    """As training.loop.train, with the mixture."""
    state = load_state(out / "state", tensors=config.parallel != "fsdp")
    stage = mixed_stage(config, state.files if state else None)
    return run(stage, config, out, state, device="cpu", progress=False)
